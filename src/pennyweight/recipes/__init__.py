"""Recipes: YAML files that say what to build, train, change, export and measure, and what runs them.

This file stays empty, so that the command line can read a recipe before it needs torch.
"""
