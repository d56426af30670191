"""Stands in for axolotl: does again what a recorded run of it did."""
