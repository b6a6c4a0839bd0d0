"""What all benchmarks share: the clock, tables, the program and the page they fill."""
