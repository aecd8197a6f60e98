"""Gradients of both passes against a reference that knows no stages: two deep copies of the language model."""

import copy
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_compressor, tiny_llava, tiny_pixels
from torch import nn

from fwd2bot import adapters
from fwd2bot.compressors.base import AnswerBatch
from fwd2bot.data.conversations import IGNORED, TEMPLATES, encode_conversation
from fwd2bot.losses import contrastive_loss

CAPTIONS = ["a fox on a red background", "stars", "how many stars are there ?"]
TURNS = [[("what is it ?", "a fox")], [("how many ?", "2"), ("where ?", "at the top left")], [("is it red ?", "no")]]
ABOUT = [0, 2, 2]  # which picture each conversation is about
TEMPERATURE = 0.1


class Added(nn.Module):
    """A linear layer and its LoRA as one weight: W + scale * up @ down."""

    def __init__(self, linear, down, up, scale):
        super().__init__()
        self.linear, self.down, self.up, self.scale = linear, down, up, scale

    def forward(self, inputs):
        return F.linear(inputs, self.linear.weight + self.scale * self.up @ self.down, self.linear.bias)


def encoded(compressor):
    tokenizer = compressor.llava.tokenizer
    return [encode_conversation(tokenizer, TEMPLATES["plain"], turns, has_image=True) for turns in TURNS]


def our_gradients(compressor):
    compressor.trainable()
    pixels = tiny_pixels(3, compressor.llava.dtype)
    tokens = compressor.compress(pixels)
    batch = AnswerBatch.collate(encoded(compressor), pad_id=3, image_index=ABOUT)
    texts = compressor.compress_text(CAPTIONS)
    loss = compressor.answer_loss(tokens, batch)
    loss = loss + contrastive_loss(compressor.embed_rows(tokens), compressor.embed_text_rows(texts), TEMPERATURE)
    loss.backward()
    named = {name: parameter for name, parameter in compressor.named_parameters() if parameter.requires_grad}
    assert all(parameter.grad is not None for parameter in named.values())
    return loss.item(), {name: parameter.grad for name, parameter in named.items()}


def reference_gradients(compressor):
    """The same losses by two copies of the network, one for each pass; every row alone, nothing padded."""
    base = tiny_llava(torch.float64).network.double()
    base.set_attn_implementation("sdpa")  # the eager one takes its softmax in float32
    copies = {stage: copy.deepcopy(base).requires_grad_(False) for stage in ("compress", "generate")}
    leaves = {}
    for path, layer in compressor.llava.network.named_modules():
        if not isinstance(layer, adapters.StageLinear):
            continue
        for stage, name in layer.routes.items():
            low_rank, prefix = layer.lora[name], f"llava.network.{path}.lora.{name}"
            for part in ("down", "up"):
                leaf = getattr(low_rank, part).detach().clone().requires_grad_()
                leaves.setdefault(f"{prefix}.{part}", leaf)
            down, up = leaves[f"{prefix}.down"], leaves[f"{prefix}.up"]
            linear = copies[stage].get_submodule(path)
            copies[stage].set_submodule(path, Added(linear, down, up, low_rank.scale))
    if compressor.config.adapters == "full":
        for stage, network in copies.items():
            for path in ("model.language_model", "lm_head"):
                for name, parameter in network.get_submodule(path).named_parameters(prefix=path):
                    leaves[stage, f"llava.network.{name}"] = parameter.requires_grad_()
    summary = leaves["summary_embeddings"] = compressor.summary_embeddings.detach().clone().requires_grad_()
    loss = reference_loss(compressor, copies["compress"], copies["generate"], summary)
    loss.backward()
    gradients = {}
    for name, leaf in leaves.items():
        name = name[1] if isinstance(name, tuple) else name
        if leaf.grad is not None:
            gradients[name] = gradients.get(name, 0) + leaf.grad
    return loss.item(), gradients


def reference_loss(compressor, first, second, summary):
    tokenizer, count = compressor.llava.tokenizer, len(summary)

    def embed(network, ids):
        return network.get_input_embeddings()(torch.tensor(ids, dtype=torch.long))

    def run(network, rows):
        return network.model.language_model(inputs_embeds=rows[None]).last_hidden_state[0]

    def summarise(content):
        prompt = tokenizer("sum up", add_special_tokens=False).input_ids
        return run(first, torch.cat([embed(first, [1]), content, embed(first, prompt), summary]))[-count:]

    visual = first.get_image_features(tiny_pixels(3, torch.float64)).pooler_output
    tokens = [summarise(one) for one in visual]
    texts = [summarise(embed(first, tokenizer(text, add_special_tokens=False).input_ids)) for text in CAPTIONS]
    losses = []
    for conversation, picture in zip(encoded(compressor), ABOUT, strict=True):
        ids, place = conversation.ids, conversation.image_position
        text = embed(second, ids)
        logits = second.lm_head(run(second, torch.cat([text[:place], tokens[picture], text[place:]])))
        for index, label in enumerate(conversation.labels):
            if label != IGNORED:
                losses.append(-logits[count + index - 1].log_softmax(-1)[label])
    images, captions = (F.normalize(torch.stack([row.mean(0) for row in rows]), dim=-1) for rows in (tokens, texts))
    cosines = images @ captions.T / TEMPERATURE
    contrastive = -(cosines.log_softmax(1).diagonal() + cosines.log_softmax(0).diagonal()).mean()
    return torch.stack(losses).mean() + contrastive


def assert_equal(ours, reference):
    (loss, gradients), (expected_loss, expected) = ours, reference
    assert loss == pytest.approx(expected_loss, rel=1e-10)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            gradient, expected[name], rtol=1e-8, atol=1e-10, msg=lambda text, name=name: name + text
        )


@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "recomputed"])
@pytest.mark.parametrize("kind", ["stage", "single", "full"])
def test_gradients_equal_those_of_two_copies(exact_norms, kind, checkpointing):
    compressor = tiny_compressor(dtype=torch.float64, adapters=kind)
    compressor.llava.gradient_checkpointing = checkpointing
    assert_equal(our_gradients(compressor), reference_gradients(compressor))


def test_recomputing_in_the_wrong_stage_would_be_seen(exact_norms, monkeypatch):
    """What PEFT does when checkpointing recomputes pass 1 under the adapter that is active by then."""
    monkeypatch.setattr(adapters, "recompute_in_stage", lambda name: (nullcontext(), adapters.stage("generate")))
    compressor = tiny_compressor(dtype=torch.float64)
    compressor.llava.gradient_checkpointing = True
    with pytest.raises(AssertionError):
        assert_equal(our_gradients(compressor), reference_gradients(compressor))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # by torch.compile itself
@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "recomputed"])
def test_a_compiled_step_is_the_same_without_a_graph_break(checkpointing):
    eager, compiled = tiny_compressor(), tiny_compressor()
    compiled.llava.gradient_checkpointing = checkpointing
    compiled.llava.compile(fullgraph=True, backend="eager")
    (loss, gradients), (expected_loss, expected) = our_gradients(compiled), our_gradients(eager)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-3)


def test_both_adapters_are_trained_by_the_language_loss_alone():
    compressor = tiny_compressor()
    compressor.trainable()
    batch = AnswerBatch.collate(encoded(compressor), pad_id=3)
    compressor.answer_loss(compressor.compress(tiny_pixels(3)), batch).backward()
    for name, parameter in compressor.own_parameters().items():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_base_is_frozen_and_parts_are_freed_by_name():
    compressor = tiny_compressor()
    own = {id(parameter) for parameter in compressor.own_parameters().values()}
    assert {id(parameter) for parameter in compressor.trainable()} == own
    projector = {id(parameter) for parameter in compressor.llava.part("projector")}
    assert {id(parameter) for parameter in compressor.trainable(["projector"])} == own | projector
