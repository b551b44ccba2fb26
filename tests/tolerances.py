"""Every tolerance of the test suite, each with its reason."""
