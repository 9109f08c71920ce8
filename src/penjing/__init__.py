"""Penjing."""
