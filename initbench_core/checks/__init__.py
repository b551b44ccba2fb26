"""Checks to run by hand on a machine: is the fused operator right and fast here?"""
