"""Benchmarks to be run by tools: airspeed velocity (`asv_suite`) and what it needs to run here."""
