"""What policy.py is made of: reading model files, adapters, quantisation, sharding, log-probs, memory."""
