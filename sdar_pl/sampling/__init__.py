"""What an iteration is made of: its tasks, worker threads, refills, and its form in a checkpoint."""
