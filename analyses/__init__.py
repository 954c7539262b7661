"""Scripts that regenerate figures and tables; each says what it claims, how it is run and what was obtained."""
