"""Answers conversations: a router that speaks gRPC, and a worker process a base model."""
