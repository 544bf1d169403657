"""fedhello: fine-tune one foundation model across clients with unequal memory, compute and network."""
