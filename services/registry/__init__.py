"""Keeps model versions with their lineage, their aliases, and the list of base models."""
