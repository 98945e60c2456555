"""Retrieval of passages: BM25 in this process, a server over HTTP, dense vectors, and our own server."""
