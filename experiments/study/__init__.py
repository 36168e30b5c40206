"""Learning rates tried alike for all methods: the command of configs that sweep."""
