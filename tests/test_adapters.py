import json
import threading

import pytest
import torch
from tiny import tiny_compressor, tiny_llava, tiny_pixels
from torch import nn

from fwd2bot import adapters
from fwd2bot.errors import ModelError

of_peft = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")


@pytest.fixture
def layer():
    torch.manual_seed(0)
    root = nn.Sequential(nn.Linear(4, 3))
    adapters.attach(root, "", {"compress": "compress", "generate": "generate"}, rank=2, alpha=4.0)
    for parameter in adapters.adapter_parameters(root).values():
        nn.init.normal_(parameter)
    return root


def test_each_stage_adds_its_own_product(layer):
    inputs, linear = torch.randn(5, 4), layer[0]
    plain = inputs @ linear.weight.T + linear.bias
    torch.testing.assert_close(layer(inputs), plain)
    for name in ("compress", "generate"):
        low_rank = linear.lora[name]
        expected = plain + 2 * inputs @ (low_rank.up @ low_rank.down).T
        with adapters.stage(name):
            torch.testing.assert_close(layer(inputs), expected)


def test_a_fresh_adapter_changes_nothing():
    linear = nn.Linear(4, 3)
    root, inputs = nn.Sequential(linear), torch.randn(2, 4)
    adapters.attach(root, "", {"generate": "generate"}, rank=2, alpha=4.0)
    with adapters.stage("generate"):
        assert torch.equal(root(inputs), linear(inputs))


def test_the_stage_before_comes_back_even_after_an_error(layer):
    inputs = torch.randn(2, 4)
    with adapters.stage("compress"):
        expected = layer(inputs)
        with pytest.raises(ZeroDivisionError), adapters.stage("generate"):
            raise ZeroDivisionError
        assert torch.equal(layer(inputs), expected)


def test_threads_have_stages_of_their_own(layer):
    inputs, inside, outputs = torch.randn(2, 4), threading.Barrier(2), {}

    def work(name):
        with adapters.stage(name):
            inside.wait(timeout=10)
            outputs[name] = layer(inputs)
            inside.wait(timeout=10)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("compress", "generate")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, output in outputs.items():
        with adapters.stage(name):
            assert torch.equal(layer(inputs), output)


def test_compiled_layers_follow_the_stage_without_a_graph_break(layer):
    compiled, inputs = torch.compile(layer, fullgraph=True, backend="eager"), torch.randn(2, 4)
    for name in ("compress", "generate", None, "compress"):
        with adapters.stage(name):
            assert torch.equal(compiled(inputs), layer(inputs))


def test_folded_weights_give_the_same(layer):
    inputs = torch.randn(2, 4)
    expected = {}
    for name in ("compress", "generate", None):
        with adapters.stage(name):
            expected[name] = layer(inputs)
    adapters.fold(layer)
    for name, outputs in expected.items():
        with adapters.stage(name):
            torch.testing.assert_close(layer(inputs), outputs)


def test_adapters_sit_on_every_linear_layer_of_the_decoder_and_nowhere_else():
    network = tiny_compressor().llava.network
    adapted = {path for path, module in network.named_modules() if isinstance(module, adapters.StageLinear)}
    linear = {path for path, module in network.named_modules() if isinstance(module, nn.Linear)}
    assert adapted == {path for path in linear if path.startswith("model.language_model.layers.")}
    assert len(adapted) == 2 * 7


def test_the_base_keeps_its_names():
    adapted = adapters.without_adapters(tiny_compressor().llava.network.state_dict())
    assert adapted.keys() == tiny_llava().network.state_dict().keys()


@of_peft
@pytest.mark.parametrize("name", ["compress", "generate"])
@pytest.mark.parametrize("method", ["fwd2bot", "single_forward"])
def test_peft_loads_our_adapters_and_computes_the_same(tmp_path, method, name):
    peft = pytest.importorskip("peft", reason="needs peft, to read adapters as others do")
    compressor, pixels = tiny_compressor(method), tiny_pixels(2)
    adapters.save_adapter(compressor.llava.network, name, tmp_path)
    other = tiny_llava()
    other.network = peft.PeftModel.from_pretrained(other.network, tmp_path).get_base_model()
    rows = torch.randn(2, 5, 32)
    with torch.no_grad():
        torch.testing.assert_close(other.run(rows), compressor.llava.run(rows, stage=name))
        ours = compressor.llava.visual_tokens(pixels, stage=name)
        torch.testing.assert_close(other.visual_tokens(pixels), ours)
        in_tower = (method, name) == ("single_forward", "compress")
        assert torch.allclose(ours, tiny_llava().visual_tokens(pixels)) != in_tower


@of_peft
def test_we_load_the_adapters_of_peft(tmp_path):
    peft = pytest.importorskip("peft", reason="needs peft, to read adapters as others do")
    targets = r"model\.language_model\.layers\.\d+\..*_proj"
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=targets, init_lora_weights=False)
    other = tiny_llava()
    wrapped = peft.get_peft_model(other.network, config)
    wrapped.save_pretrained(tmp_path)
    other.network = wrapped.get_base_model()
    compressor, rows = tiny_compressor(), torch.randn(2, 5, 32)
    adapters.load_adapter(compressor.llava.network, "generate", tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(compressor.llava.run(rows, stage="generate"), other.run(rows))


def spoil(folder, how):
    config = json.loads((folder / "adapter_config.json").read_text())
    if how == "missing":
        (folder / "adapter_model.safetensors").unlink()
    elif how == "cut":
        content = (folder / "adapter_model.safetensors").read_bytes()
        (folder / "adapter_model.safetensors").write_bytes(content[: len(content) // 2])
    elif how == "no json":
        (folder / "adapter_config.json").write_text("{")
    else:
        (folder / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": None}))


@pytest.mark.parametrize("how", ["missing", "cut", "no json", "no alpha"])
def test_a_damaged_adapter_is_a_model_error(tmp_path, how):
    network = tiny_compressor().llava.network
    adapters.save_adapter(network, "compress", tmp_path)
    spoil(tmp_path, how)
    with pytest.raises(ModelError, match="cannot be read"):
        adapters.load_adapter(network, "compress", tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("use_rslora", True), ("alpha_pattern", {"q_proj": 8}), ("rank_pattern", {"q_proj": 2})],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_adapter_that_peft_scales_in_another_way_is_refused(tmp_path, name, value):
    network = tiny_compressor().llava.network
    adapters.save_adapter(network, "compress", tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    plain = {"use_rslora": False, "alpha_pattern": {}, "rank_pattern": {}}  # as PEFT writes it
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **plain}))
    adapters.load_adapter(network, "compress", tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **plain, name: value}))
    with pytest.raises(ModelError, match=f"is scaled by {name}, which is not read here; train it without"):
        adapters.load_adapter(network, "compress", tmp_path)


def test_an_adapter_of_another_rank_or_for_other_layers_does_not_fit(tmp_path):
    adapters.save_adapter(tiny_compressor(rank=3).llava.network, "compress", tmp_path / "rank")
    adapters.save_adapter(tiny_compressor("single_forward").llava.network, "compress", tmp_path / "tower")
    network = tiny_compressor().llava.network
    with pytest.raises(ModelError, match=r"is \(3, 32\), this model needs \(2, 32\)"):
        adapters.load_adapter(network, "compress", tmp_path / "rank")
    with pytest.raises(ModelError, match="made for other layers"):
        adapters.load_adapter(network, "compress", tmp_path / "tower")
