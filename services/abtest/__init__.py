"""Compares two models blind: answers, pairs, votes, and what they prove."""
