"""Floor 5: whole models measured through the referee; players are made here and handed to it."""
