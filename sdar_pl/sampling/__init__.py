"""The parts of an iteration: tasks, slots, worker threads, refills, contexts, and its form in a checkpoint."""
