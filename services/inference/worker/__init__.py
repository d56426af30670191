"""The process that holds torch: one base model, and the versions of it.

It reads requests from standard input and writes answers to standard output, one JSON object a
line (`protocol`); it knows nothing of gRPC.
"""
