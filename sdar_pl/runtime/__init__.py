"""What a run stands on: processes and ranks, files, messages, Lightning's plugins."""
