"""Processes and ranks, files, messages, and Lightning's plugins."""
