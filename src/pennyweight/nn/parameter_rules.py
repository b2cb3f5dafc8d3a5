"""`parameter_rules`: what slot contents ask of the optimiser for the latent parameters they hold."""

from dataclasses import dataclass

from torch import nn

from pennyweight.nn.slots.chain import GemmSlots


@dataclass(frozen=True)
class ParameterRule:
    """How an optimiser should treat one parameter.

    Args:
        lr_scale: multiplies the learning rate, not the gradient, which adaptive optimisers would normalise away.
        decays: whether weight decay applies.
        is_sign: whether only the parameter's sign enters the product, so that an optimiser may flip it.
    """

    lr_scale: float = 1.0
    decays: bool = True
    is_sign: bool = False


def parameter_rules(model: nn.Module) -> dict[nn.Parameter, ParameterRule]:
    """The rule of every trainable parameter, in the model's order.

    Kept on the contents, not on the parameters, because torch copies no attributes of a parameter.
    """
    rules = {parameter: ParameterRule() for parameter in model.parameters() if parameter.requires_grad}
    for module in model.modules():
        slots, weight = getattr(module, "slots", None), getattr(module, "weight", None)
        if not isinstance(slots, GemmSlots) or weight not in rules:
            continue
        for content in slots.weight.contents():
            before = rules[weight]
            rules[weight] = ParameterRule(
                before.lr_scale * content.lr_scale, before.decays and content.decays, before.is_sign or content.is_sign
            )
    return rules
