"What TRL asks of this package"
