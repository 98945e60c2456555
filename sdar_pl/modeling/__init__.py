"""The parts of policy.py: reading model files, adapters, quantisation, sharding, log-probs, memory."""
