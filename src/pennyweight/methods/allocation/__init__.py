"""Which layer gets how many bits: sensitivities, costs, and the integer programme that weighs one against the other."""
