"""Who trains what: strategies that turn budgets and block scores into allocations."""
