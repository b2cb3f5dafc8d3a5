"""Recurrent layers with slots: torch's numbers with nothing in them, the oracle's with codes in them."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pennyweight as pw
from oracles import recurrent as oracle
from pennyweight.errors import MethodError
from pennyweight.nn.recurrent import GemmGRUCell, GemmLSTM, GemmLSTMCell, GemmRNNCell, slot_recurrent_
from pennyweight.nn.recurrent.surgery import RECURRENT
from pennyweight.nn.slots.chain import SlotContent
from pennyweight.nn.slots.integer import IntegerInput, IntegerWeight
from pennyweight.numerics.affine import AffineParameters, PerChannel, PerTensor, affine_parameters
from pennyweight.numerics.formats import IntFormat

LAYERS: list[tuple[type[nn.RNNBase], dict[str, Any]]] = [
    (nn.LSTM, {}),
    (nn.LSTM, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    (nn.LSTM, {"bias": False, "num_layers": 2}),
    (nn.GRU, {"num_layers": 3}),
    (nn.GRU, {"bidirectional": True, "bias": False}),
    (nn.RNN, {"nonlinearity": "relu"}),
    (nn.RNN, {"nonlinearity": "tanh", "bidirectional": True, "batch_first": True}),
]
CELLS: list[tuple[type[nn.RNNCellBase], dict[str, Any]]] = [
    (nn.LSTMCell, {}),
    (nn.GRUCell, {"bias": False}),
    (nn.RNNCell, {"nonlinearity": "relu"}),
    (nn.RNNCell, {"nonlinearity": "tanh"}),
]


class Unchanged(SlotContent):
    """Fills a slot and changes nothing, so that the gates compute and not torch's kernel."""

    stage = "quantize"

    def forward(self, x: Tensor) -> Tensor:
        return x * 1.0


def ours(module: nn.Module, *, filled: bool) -> Any:
    twin = RECURRENT[type(module)].from_module(module)
    if filled:
        for _, layer in twin.gates():
            layer.slots.fill("weight", Unchanged())
    return twin


def flat(output: Any) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else [tensor for part in output for tensor in flat(part)]


@pytest.mark.parametrize(("kind", "settings"), LAYERS)
def test_layers_equal_torchs(kind: type[nn.RNNBase], settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer = kind(5, 7, **settings).double()
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    expected = flat(layer(x))
    for got in (ours(layer, filled=False)(x), ours(layer, filled=True)(x)):
        for left, right in zip(flat(got), expected, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kind", "settings"), LAYERS)
def test_gradients_equal_torchs(kind: type[nn.RNNBase], settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer = kind(5, 7, **settings).double()
    x = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    grads = []
    for module in (layer, ours(layer, filled=True)):
        loss = sum((tensor.square().sum() for tensor in flat(module(x))), torch.zeros((), dtype=torch.float64))
        grads.append(torch.autograd.grad(loss, [x, *layer.parameters()]))
    for left, right in zip(*grads, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("kind", "settings"), CELLS)
@pytest.mark.parametrize("single", [False, True])
def test_cells_equal_torchs(kind: type[nn.RNNCellBase], settings: dict[str, Any], single: bool) -> None:
    torch.manual_seed(0)
    cell = kind(5, 7, **settings).double()
    x = torch.randn(5, dtype=torch.float64) if single else torch.randn(3, 5, dtype=torch.float64)
    state = cell(x)
    for twin in (ours(cell, filled=False), ours(cell, filled=True)):
        for left, right in zip(flat(twin(x, twin(x))), flat(cell(x, state)), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)
        assert set(twin.state_dict()) >= set(cell.state_dict())


@pytest.mark.parametrize(("kind", "settings"), LAYERS)
def test_keys_are_torchs_both_ways(kind: type[nn.RNNBase], settings: dict[str, Any]) -> None:
    layer, other = kind(5, 7, **settings), kind(5, 7, **settings)
    model = nn.Sequential(RECURRENT[kind].from_module(layer))
    assert set(model.state_dict()) == {f"0.{key}" for key in layer.state_dict()}
    model.load_state_dict({f"0.{key}": value for key, value in other.state_dict().items()})
    for key, value in other.state_dict().items():
        assert torch.equal(layer.state_dict()[key], value), "the parameters are shared with the original"
        assert torch.equal(getattr(model[0], key), value)
    other.load_state_dict({key.removeprefix("0."): value for key, value in model.state_dict().items()})
    assert torch.equal(model[0].all_weights[0][0], other.all_weights[0][0])
    with pytest.raises(AttributeError, match="weight_xx"):
        _ = model[0].weight_xx


def test_a_missing_key_is_told() -> None:
    state = GemmLSTM(2, 3).state_dict()
    state.pop("weight_hh_l0")
    with pytest.raises(RuntimeError, match=r"l0\.hidden\.weight"):
        GemmLSTM(2, 3).load_state_dict(state)


@pytest.mark.parametrize(("kind", "settings"), LAYERS[:1] + LAYERS[3:4] + LAYERS[5:6])
def test_codes_equal_the_oracle(kind: type[nn.RNNBase], settings: dict[str, Any]) -> None:
    """4-bit weights a row, 3-bit inputs and states on [-1, 1]: the integers of a loop over single numbers."""
    torch.manual_seed(1)
    settings = {key: value for key, value in settings.items() if key != "num_layers"}
    layer = kind(5, 6, **settings).double()
    twin = RECURRENT[kind].from_module(layer)
    one = torch.ones((), dtype=torch.float64)
    state_codes = affine_parameters(-one, one, IntFormat(3), PerTensor(), symmetric=True)
    for _, gate in twin.gates():
        scale = gate.weight.detach().abs().amax(1) / 7
        codes = AffineParameters(scale, torch.zeros_like(scale), IntFormat(4), PerChannel())
        gate.slots.fill("weight", IntegerWeight(codes))
        gate.slots.fill("input", IntegerInput(state_codes))
    x = torch.randn(2, 5, 5, dtype=torch.float64).clamp(-1, 1)
    got, _ = twin(x)
    state = {name: value.tolist() for name, value in layer.state_dict().items()}
    weights = tuple(oracle.rows_on_grid(state[f"weight_{part}_l0"], 7) for part in ("ih", "hh"))
    rounding = oracle.grid(-4, 3, float(state_codes.scale))
    for column in range(5):
        expected = oracle.unrolled(
            twin.mode,
            (*weights, state["bias_ih_l0"], state["bias_hh_l0"]),
            x[:, column].tolist(),
            6,
            rounding,
            rounding,
        )
        torch.testing.assert_close(got[:, column], torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("filled", [False, True])
def test_a_carried_state_equals_one_long_window(filled: bool) -> None:
    torch.manual_seed(0)
    lstm = ours(nn.LSTM(4, 6, num_layers=2), filled=filled)
    x = torch.randn(8, 3, 4)
    whole, (h, c) = lstm(x)
    first, state = lstm(x[:5])
    second, (h2, c2) = lstm(x[5:], state)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close((h2, c2), (h, c))
    afresh, _ = lstm(x[5:])
    assert not torch.allclose(afresh, second)


@pytest.mark.parametrize("filled", [False, True])
def test_a_batch_of_one_a_single_sequence_and_one_step(filled: bool) -> None:
    torch.manual_seed(0)
    layer = nn.GRU(4, 6, bidirectional=True)
    twin = ours(layer, filled=filled)
    x = torch.randn(1, 4)
    for case in (x, x[:, None]):
        torch.testing.assert_close(twin(case), layer(case))
        torch.testing.assert_close(twin(case, twin(case)[1]), layer(case, layer(case)[1]))


def test_dropout_between_layers_is_torchs() -> None:
    layer = nn.LSTM(4, 6, num_layers=2, dropout=0.5)
    twin, x = ours(layer, filled=True), torch.randn(5, 2, 4)
    torch.manual_seed(3)
    expected, _ = layer(x)
    torch.manual_seed(3)
    torch.testing.assert_close(twin(x)[0], expected)
    torch.testing.assert_close(twin.eval()(x)[0], layer.eval()(x)[0])


def test_wrong_inputs_are_told() -> None:
    lstm = ours(nn.LSTM(4, 6), filled=True)
    with pytest.raises(MethodError, match=r"\(steps, batch, features\).*at least one step; got \(0, 2, 4\)"):
        lstm(torch.zeros(0, 2, 4))
    with pytest.raises(MethodError, match=r"expected 2 of \(1, 2, 6\)"):
        lstm(torch.zeros(3, 2, 4), (torch.zeros(1, 1, 6), torch.zeros(1, 1, 6)))
    packed = nn.utils.rnn.pack_padded_sequence(torch.zeros(3, 2, 4), torch.tensor([3, 2]))
    with pytest.raises(MethodError, match="packed sequences"):
        lstm(packed)
    ours(nn.LSTM(4, 6), filled=False)(packed)  # torch's own kernel takes them
    with pytest.raises(MethodError, match="features"):
        ours(nn.LSTMCell(4, 6), filled=True)(torch.zeros(1, 2, 4))
    with pytest.raises(MethodError, match="proj_size=2"):
        GemmLSTM(4, 6, proj_size=2)


def test_nan_in_a_state_reaches_the_output() -> None:
    lstm = ours(nn.LSTM(4, 6), filled=True)
    x = torch.zeros(3, 2, 4)
    x[1, 0, 2] = torch.nan
    y, _ = lstm(x)
    assert bool(y[1:, 0].isnan().all())
    assert not bool(y[:, 1].isnan().any())
    assert not bool(y[0].isnan().any())


def test_surgery_leaves_what_it_would_harm() -> None:
    class Own(nn.LSTM):
        pass

    model = nn.ModuleDict({"own": Own(2, 3), "projected": nn.LSTM(2, 4, proj_size=3), "cell": nn.GRUCell(2, 3)})
    shared = nn.LSTM(2, 3)
    model["a"], model["b"] = shared, shared
    assert slot_recurrent_(model) == ["cell", "a"]
    assert type(model["own"]) is Own
    assert model["a"] is model["b"]
    assert slot_recurrent_(model) == []
    assert slot_recurrent_(nn.LSTM(2, 3)) == []


@pytest.mark.parametrize("cell", [GemmLSTMCell(2, 3), GemmGRUCell(2, 3), GemmRNNCell(2, 3), GemmLSTM(2, 3, 2)])
def test_they_deep_copy_move_and_save(cell: Any, tmp_path: Any) -> None:
    twin = copy.deepcopy(cell).double()
    x = torch.randn(4, 2, dtype=torch.float64)
    torch.testing.assert_close(flat(twin(x)), flat(copy.deepcopy(cell).double()(x)))
    assert next(cell.parameters()).dtype == torch.float32
    torch.save(twin.state_dict(), tmp_path / "state.pt")
    cell.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))


def recurrent_net() -> nn.Module:
    return pw.create_model("lstm", vocab_size=20, width=8, hidden_size=12, num_layers=2, seed=3)


TOKENS = torch.randint(0, 20, (6, 9), generator=torch.Generator().manual_seed(0))
METHODS = [
    pw.RoundToNearest(),
    pw.RoundToNearest(weights="int4", activations=None),
    pw.Int8Training(norm="keep"),
    pw.Int8Training(norm="keep", weights="int4", activations="uint4", gradients=None),
    pw.BNN(),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_methods_find_the_gates_of_a_users_model(method: Any) -> None:
    model = recurrent_net()
    before = set(model.state_dict())
    applied = pw.apply_(model, method, data=[TOKENS])
    gates = {f"lstm.l{layer}.{part}" for layer in range(2) for part in ("input", "hidden")}
    assert gates | {"decoder"} <= set(applied.changed)
    assert before <= set(model.state_dict())
    model.load_state_dict(pw.create_model("lstm", vocab_size=20, width=8, hidden_size=12, seed=4).state_dict())
    model.train()(TOKENS).square().mean().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)
    assert all(model.get_submodule(gate).weight.grad.abs().sum() > 0 for gate in gates)


def test_eight_bits_stay_near_float_and_two_do_not() -> None:
    model = recurrent_net().eval()
    expected = model(TOKENS).detach()

    @torch.no_grad()
    def error(**settings: Any) -> float:
        twin = copy.deepcopy(model)
        pw.apply_(twin, pw.RoundToNearest(**settings), data=[TOKENS])
        return float((twin(TOKENS) - expected).norm() / expected.norm())

    assert error() < 0.02 < error(weights="int2", activations="uint2")


def test_methods_that_fit_units_leave_gates_alone_and_say_so() -> None:
    model = recurrent_net()
    applied = pw.apply_(model, pw.AdaQuant(steps=2), data=[TOKENS], reference=copy.deepcopy(model))
    assert applied.changed == ("decoder",)
    assert applied.skipped["lstm"].startswith("AdaQuant takes no LSTM: ")
    assert type(model.lstm) is nn.LSTM


def test_a_refused_call_leaves_the_same_function() -> None:
    model = recurrent_net().eval()
    expected = model(TOKENS)
    with pytest.raises(MethodError, match="both want"):
        pw.apply_(model, [pw.BNN(), pw.RoundToNearest(activations=None)])
    assert torch.equal(model(TOKENS), expected)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_quantized_nets_own_state_loads_into_a_twin(method: Any) -> None:
    model, twin = recurrent_net(), recurrent_net()
    for one, tokens in ((model, TOKENS), (twin, TOKENS.flip(0) // 2)):
        pw.apply_(one, method, data=[tokens])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    assert not torch.equal(model.eval()(TOKENS), twin.eval()(TOKENS))
    twin.load_state_dict(model.state_dict())
    assert torch.equal(model(TOKENS), twin(TOKENS))
    again = copy.deepcopy(model)
    assert torch.equal(model(TOKENS), again(TOKENS))
    assert all(left is not right for left, right in zip(model.parameters(), again.parameters(), strict=True))
