"""Every published figure has its script here; `make bench` runs them all.

A figure is a median over rounds, and a ratio is of two medians of the same run in which the two
sides took turns, so that a machine that slows down slows down both.
"""
