"""Which rows are validated by which model: `split` decides, `balance` how, `audit` proves it, `own` takes yours."""
