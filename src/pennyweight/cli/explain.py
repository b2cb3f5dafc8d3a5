"""`pennyweight explain`: per arm, who touches what."""

import typer

from pennyweight.cli.exits import USER_ERROR
from pennyweight.cli.run import RecipeArgument, SetOption


def explain(recipe: RecipeArgument, set_: SetOption = None) -> None:
    """Show which modules each method of a recipe changes, which slots it fills, what it skips, and collisions."""
    from pennyweight.recipes.catalogue import find_recipe
    from pennyweight.recipes.overrides import apply_overrides

    document = apply_overrides(find_recipe(recipe), set_ or ())
    from pennyweight.recipes.explain import MethodFinding, explain_arm
    from pennyweight.recipes.resolve import resolve

    def show(found: MethodFinding) -> None:
        print(f"  stage {found.stage}: {found.name}")
        if found.problem:
            print(f"    CANNOT BE APPLIED  {found.problem}")
            return
        slots = ", ".join(f"{slot} of {count}" for slot, count in found.slots.items())
        print(f"    fills    {slots} modules")
        print(f"    changes  {', '.join(found.changed) or 'nothing'}")
        for fqn, reason in found.skipped.items():
            print(f"    skips    {fqn}: {reason}")

    resolved = resolve(document)
    problems = 0
    for arm in resolved.arms:
        print(f"{arm.name}: {arm.model.name}, then {' -> '.join(stage.title() for stage in arm.stages)}")
        findings = explain_arm(arm, resolved)
        if not findings:
            print("  no methods: the float model as it is")
        for found in findings:
            show(found)
            problems += bool(found.problem)
    if problems:
        raise typer.Exit(USER_ERROR)
