"""One binarized layer of the BNN paper by hand: forward and gradients in loops (arXiv 1602.02830, algorithm 1)."""

Matrix = list[list[float]]


def sign(x: float) -> float:
    return 1.0 if x >= 0 else -1.0


def binary_layer(x: Matrix, weight: Matrix, bias: list[float], grad: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """Outputs, gradient of the activations before their sign, gradient of the latent weights."""
    batch, inputs, outputs = len(x), len(weight[0]), len(weight)
    y = [
        [sum(sign(x[b][k]) * sign(weight[n][k]) for k in range(inputs)) + bias[n] for n in range(outputs)]
        for b in range(batch)
    ]
    grad_x = [
        [
            sum(grad[b][n] * sign(weight[n][k]) for n in range(outputs)) if abs(x[b][k]) <= 1 else 0.0
            for k in range(inputs)
        ]
        for b in range(batch)
    ]
    grad_weight = [
        [sum(grad[b][n] * sign(x[b][k]) for b in range(batch)) for k in range(inputs)] for n in range(outputs)
    ]
    return y, grad_x, grad_weight
