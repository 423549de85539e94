"""GILL without files: what is read in which order, states, mapper, heads, against slow and obvious ways."""

import copy
import json
import math

import pytest
import torch
import torch.nn.functional as F
from gill_fixtures import SMALL, opt_folder, photo, random_parts, tiny_clip

from blipdiff_impl.errors import CheckpointError, SubjectError
from blipdiff_impl.gill.config import MapperConfig
from blipdiff_impl.gill.decoding import decode
from blipdiff_impl.gill.decoding_settings import DecodingSettings
from blipdiff_impl.gill.interleaving import Prompt, arrange, dialogue_turn, fit_context, parse_prompt
from blipdiff_impl.gill.language_model import LanguageModel, new_cache
from blipdiff_impl.gill.mapper import GILLMapper
from blipdiff_impl.gill.pipeline import GILL
from blipdiff_impl.gill.retrieval import PictureIndex, TextEmbedding, best_pictures, decision, ranked
from blipdiff_impl.gill.vision import ClipVision

CLOSE = 1e-5


def close(found, expected):
    """Within 1e-5 of the largest value: float32 holds 24 bits of each sum, and every CPU sums in its own order."""
    return float((found - expected).detach().abs().max()) <= CLOSE * max(1.0, float(expected.detach().abs().max()))


IMAGE = SMALL.image_tokens
ODD = {"inner": 32, "before": False}  # as OPT-350m: other width inside, norms behind


@pytest.fixture(scope="module", params=[{}, ODD], ids=["opt", "opt-350m"])
def folder(request, tmp_path_factory):
    return opt_folder(tmp_path_factory.mktemp("opt"), **request.param)


@pytest.fixture(scope="module")
def gill(folder):
    return GILL(LanguageModel.from_folder(folder), random_parts(), ClipVision(tiny_clip()))


def plain_states(gill, embeddings):
    """One whole pass by transformers' own class, without a cache: its last hidden states and logits."""
    found = gill.language.network(inputs_embeds=embeddings, output_hidden_states=True, use_cache=False)
    return found.hidden_states[-1], found.logits


# --- the order of what is read (method.md 14.5)


def fake(text):
    return [100 + ord(letter) for letter in text]


def test_order_and_start_token():
    a, b = photo(1), photo(2)
    assert arrange(["x", a, "y", b], fake, 2) == [[2, 220], a, [221], b]
    found = arrange([a, "x", b, "y"], fake, 2)
    assert found[0] is a and found[1] == [2, 220] and found[2] is b and found[3] == [221]
    assert arrange([a], fake, 2) == [a]


def test_texts_beside_each_other_are_one():
    assert Prompt(("a", "b", "")).items == ("ab",)
    assert (Prompt(("a",)) + Prompt(("b",))).items == ("ab",)


def test_a_prompt_is_what_its_places_say(gill):
    """Every position by hand: the first text begins with the start token, a picture takes three positions."""
    first, second = photo(1), photo(2, 30, 30)
    prompt = parse_prompt(" <image2> the same <image1> in snow ", {1: first, 2: second})
    assert [item if isinstance(item, str) else item.shape for item in prompt.items] == [
        second.shape, "the same", first.shape, " in snow",
    ]  # fmt: skip
    words = gill.language.tokenizer.ids
    table = gill.language.network.get_input_embeddings()

    def rows(picture):
        return gill.parts.visual_embeddings(gill.tower.pooled(picture)).reshape(1, 3, 24)

    expected = torch.cat(
        [
            rows(second),
            table(torch.tensor([[2, *words("the same")]])),
            rows(first),
            table(torch.tensor([words(" in snow")])),
        ],
        1,
    )
    assert torch.equal(gill.embeddings(prompt), expected)
    assert len(words("the same")) == 2


def test_pictures_alone(gill):
    assert gill.embeddings(parse_prompt("<image1>", {1: photo()})).shape == (1, 3, 24)


@pytest.mark.parametrize("text, pictures, said", [
    ("", {}, "The prompt is empty"), ("  ", {}, "The prompt is empty"),
    ("a <image3>", {1: photo()}, "has <image3>, but no picture is connected to image3 (connected: image1)"),
    ("a <image1>", {}, "no picture is connected to image1 (connected: none)"),
    ("a cat", {2: photo()}, "The picture image2 has no place in the text 'a cat'. Write <image2>"),
    ("<image1>", {1: photo() * torch.nan}, "The picture image1 cannot be used: The photos hold NaN"),
    ("<image1>", {1: torch.zeros(2, 32, 32, 3)}, "image1 has 2 pictures"),
    ("<image1>", {1: "x"}, "image1 cannot be used"),
    ("a" * 40_000, {}, "letters"),
])  # fmt: skip
def test_prompts_that_cannot_be(text, pictures, said):
    with pytest.raises(SubjectError) as error:
        parse_prompt(text, pictures)
    assert said in str(error.value) and len(str(error.value)) < 500


def test_a_dialogue_is_written_as_published():
    picture = photo()
    first = dialogue_turn(None, "", " what is it? ", {})
    assert first.items == ("Q: what is it?\nA:",)
    second = dialogue_turn(first, " a cat.\n", "<image1> and this?", {1: picture})
    assert second.items[0] == "Q: what is it?\nA: a cat.\n" and second.items[1] is picture
    assert second.items[2] == "Q: and this?\nA:"
    inside = dialogue_turn(second, "", "is <image1> one?", {1: picture})
    assert inside.items[2:] == ("Q: and this?\nA:\nQ: is", picture, " one?\nA:")
    with pytest.raises(SubjectError, match="There is a reply, 'yes', but nothing that it answers"):
        dialogue_turn(None, "yes", "a cat", {})


def test_the_oldest_is_left_out():
    picture = photo()
    pieces = [[2, 10, 11, 12], picture, [13, 14]]
    assert fit_context(pieces, 3, 9, 2) == [[2, 10, 11, 12], picture, [13, 14]]
    assert fit_context(pieces, 3, 8, 2) == [[2, 11, 12], picture, [13, 14]]
    assert fit_context(pieces, 3, 6, 2) == [picture, [2, 13, 14]]
    assert fit_context(pieces, 3, 5, 2) == [[2, 13, 14]]  # a picture stays whole or goes
    assert fit_context(pieces, 3, 2, 2) == [[2, 14]]


# --- the language model (14.2, 14.3)


def test_states_are_those_that_the_words_are_read_from(gill):
    embeddings = gill.language.embed([2, 30, 40, 50, 60])
    hidden, logits = plain_states(gill, embeddings)
    states = gill.language.read(embeddings, new_cache())
    assert close(states, hidden)
    assert close(gill.language.logits(states), logits)
    assert states.shape[-1] == 24


def test_cached_equals_uncached(gill):
    embeddings = gill.language.embed(list(range(2, 42)))
    cache = new_cache()
    parts = [gill.language.read(part, cache) for part in embeddings.split([5, 1, 1, 8, 1, 24], 1)]
    assert close(torch.cat(parts, 1), plain_states(gill, embeddings)[0])


def test_new_words_stand_behind_the_old_ones(folder):
    language = LanguageModel.from_folder(folder)
    before = language.network.get_input_embeddings().weight.clone()
    rows = torch.randn(8, 24)
    language.add_words(rows, 300)
    after = language.network.get_input_embeddings().weight
    assert torch.equal(after[:300], before) and torch.equal(after[300:], rows) and len(after) == 308
    assert language.network.get_output_embeddings().weight is after
    assert torch.equal(language.embed([303])[0, 0], rows[3])
    state = torch.randn(1, 24)
    assert close(language.logits(state)[0, 300:], rows @ state[0])


def test_rows_of_the_file_that_are_none_give_way(folder):
    """OPT's file has a few rows more than its tokenizer has words; the new words take their places."""
    language = LanguageModel.from_folder(folder)
    rows = torch.randn(8, 24)
    language.add_words(rows, 296)
    assert torch.equal(language.network.get_input_embeddings().weight[296:], rows)
    with pytest.raises(CheckpointError, match="words, but GILL's own begin at the id 200"):
        LanguageModel.from_folder(folder).add_words(rows, 200)


def test_texts_and_tokens(gill):
    tokenizer = gill.language.tokenizer
    text = "Q: a cat in snow\n\u00e9\u732b </s> [IMG0]"
    ids = tokenizer.ids(text)
    assert tokenizer.text(ids) == text and 2 not in ids
    assert tokenizer.text([0, *tokenizer.ids(" a"), *IMAGE, 1, 2, 3, *tokenizer.ids(" cat")]) == " a cat"
    assert len(tokenizer.ids(" a cat")) == 2 and tokenizer.ids("\n") == [tokenizer.newline]


# --- mapper and heads (14.4, 14.7)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_mapper_is_pytorchs_own_transformer(seed):
    """Against nn.Transformer by its stated sizes, filled by name; its stacks are masked by nothing."""
    torch.manual_seed(seed)
    config = MapperConfig(
        width=32, heads=4, encoder_layers=4, decoder_layers=4, feed_forward=64, queries=9, output_width=12
    )
    mapper = GILLMapper(config, 24).eval()
    with pytest.warns(UserWarning, match="nested_tensor"):  # of the plain way to build it
        plain = torch.nn.Transformer(32, 4, 4, 4, 64, dropout=0.0, norm_first=True, batch_first=True).train()
    plain.load_state_dict({name[4:]: value for name, value in mapper.state_dict().items() if name.startswith("tfm.")})
    states, rows = torch.randn(2, 8, 24), torch.randn(8, 24)
    memory = F.linear(states + rows, mapper.fc.weight, mapper.fc.bias)
    expected = F.linear(plain(memory, mapper.query_embs.expand(2, 9, 32)), mapper.model.weight, mapper.model.bias)
    assert close(mapper(states, rows), expected)
    with torch.inference_mode():
        assert close(mapper(states, rows), expected)


def test_the_mapper_by_hand():
    """One layer each, written out: norms first, ReLU, one more norm behind each stack."""
    torch.manual_seed(0)
    config = MapperConfig(
        width=8, heads=2, encoder_layers=1, decoder_layers=1, feed_forward=12, queries=5, output_width=6
    )
    mapper = GILLMapper(config, 7).eval()
    w = mapper.state_dict()

    def norm(x, name):
        return F.layer_norm(x, (8,), w[f"tfm.{name}.weight"], w[f"tfm.{name}.bias"])

    def attention(x, y, name):
        q, k, v = (
            F.linear(z, weight, bias).unflatten(-1, (2, 4)).transpose(0, 1)
            for z, weight, bias in zip((x, y, y), w[f"tfm.{name}.in_proj_weight"].chunk(3),
                                       w[f"tfm.{name}.in_proj_bias"].chunk(3), strict=True)
        )  # fmt: skip
        seen = (q @ k.transpose(1, 2) / math.sqrt(4)).softmax(-1) @ v
        return F.linear(
            seen.transpose(0, 1).flatten(1), w[f"tfm.{name}.out_proj.weight"], w[f"tfm.{name}.out_proj.bias"]
        )

    def forward(x, name):
        inner = F.linear(x, w[f"tfm.{name}.linear1.weight"], w[f"tfm.{name}.linear1.bias"]).relu()
        return F.linear(inner, w[f"tfm.{name}.linear2.weight"], w[f"tfm.{name}.linear2.bias"])

    states, rows = torch.randn(1, 8, 7), torch.randn(8, 7)
    x = F.linear(states[0] + rows, w["fc.weight"], w["fc.bias"])
    e, d = "encoder.layers.0", "decoder.layers.0"
    y = norm(x, f"{e}.norm1")
    x = x + attention(y, y, f"{e}.self_attn")
    x = norm(x + forward(norm(x, f"{e}.norm2"), e), "encoder.norm")
    t = w["query_embs"][0]
    y = norm(t, f"{d}.norm1")
    t = t + attention(y, y, f"{d}.self_attn")
    t = t + attention(norm(t, f"{d}.norm2"), x, f"{d}.multihead_attn")
    t = norm(t + forward(norm(t, f"{d}.norm3"), d), "decoder.norm")
    assert close(mapper(states, rows)[0], F.linear(t, w["model.weight"], w["model.bias"]))


def test_heads_by_hand():
    parts = random_parts()
    states, pooled = torch.randn(2, 8, 24), torch.randn(2, 20)
    w = parts.state_dict()

    def unit(x):
        return x / x.pow(2).sum(-1, keepdim=True).sqrt()

    text = states[:, 0] @ w["ret_text_hidden_fcs.0.model.weight"].T + w["ret_text_hidden_fcs.0.model.bias"]
    assert close(parts.text_embedding(states), unit(text))
    picture = pooled @ w["visual_fc.weight"].T + w["visual_fc.bias"]
    assert close(parts.picture_embedding(pooled), unit(picture))
    logits = states[:, 0] @ w["decision_model.1.weight"].T + w["decision_model.1.bias"]
    assert close(parts.decisions(states), logits.softmax(-1))
    assert parts.logit_scale.exp().item() == pytest.approx(1 / 0.07)


@pytest.mark.parametrize("wins, word", [(0, "gen"), (1, "ret")])
def test_each_class_can_win(wins, word):
    parts = random_parts()
    parts.decision_model[1].weight.zero_()
    parts.decision_model[1].bias.copy_(torch.tensor([2.0, 0.0] if wins == 0 else [0.0, 2.0]))
    said, probability = decision(parts.decisions(torch.randn(1, 8, 24))[0].tolist())
    assert said == word and probability == pytest.approx(1 / (1 + math.exp(-2)))
    assert decision(None) == ("gen", 1.0)


def test_pictures_are_seen_by_clips_pooled_output():
    """Against transformers: the class token of the last state behind the norm that only the pooled output has."""
    network = tiny_clip()
    tower = ClipVision(network)
    grey = torch.full((1, 28, 28, 3), 0.5)
    pixels = (grey.permute(0, 3, 1, 2) * 255).round() / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in ([0.48145466, 0.4578275, 0.40821073],
                                                         [0.26862954, 0.26130258, 0.27577711]))  # fmt: skip
    found = network(pixel_values=(pixels - mean) / std)
    inner = getattr(network, "vision_model", network)
    assert close(found.pooler_output, inner.post_layernorm(found.last_hidden_state[:, 0]))
    assert torch.allclose(tower.pooled(grey), found.pooler_output, atol=1e-4)
    wide = torch.rand(1, 28, 56, 3)
    assert not torch.allclose(tower.pooled(wide), tower.pooled(wide, squash=True), atol=1e-3)
    assert tower.pooled(torch.rand(2, 30, 40, 4)).shape == (2, 20)


def test_scores_of_pictures():
    rows = F.normalize(torch.randn(6, 10), dim=-1)
    index = PictureIndex(tuple("abcdef"), ((1, 1),) * 6, rows, "m")
    vectors = F.normalize(torch.randn(2, 10), dim=-1)
    text = TextEmbedding(vectors, 14.3, "m")
    scores = (rows.numpy() @ vectors[1].numpy()) * 14.3
    order = sorted(range(6), key=lambda i: -scores[i])
    found = best_pictures(text, index, which=2)
    assert [name for name, _ in found] == ["abcdef"[i] for i in order[:3]]
    assert [score for _, score in found] == pytest.approx([scores[i] for i in order[:3]], abs=CLOSE)
    seen = best_pictures(text, index, which=2, most=6, seen={"abcdef"[order[0]], "abcdef"[order[2]]})
    assert [name for name, _ in seen[:4]] == ["abcdef"[order[i]] for i in (1, 3, 4, 5)]
    assert [score for _, score in seen[4:]] == [-1000, -1000]
    assert len(best_pictures(text, index, most=50)) == 6


def test_pictures_in_order():
    rows = F.normalize(torch.randn(5, 10), dim=-1)
    text = TextEmbedding(F.normalize(torch.randn(1, 10), dim=-1), 14.3, "m")
    order, cosines = ranked(text, rows)
    plain = rows.numpy() @ text.vectors[0].numpy()
    assert cosines == pytest.approx([plain[i] for i in order]) and cosines == sorted(cosines, reverse=True)


def test_scores_that_cannot_be():
    text = TextEmbedding(torch.ones(1, 4) / 2, 1.0, "m")
    with pytest.raises(SubjectError, match="which = 2, but the reply has 1 picture"):
        text.of(2)
    with pytest.raises(SubjectError, match="made by another GILL model"):
        best_pictures(text, PictureIndex(("a",), ((1, 1),), torch.ones(1, 4), "other"))
    with pytest.raises(SubjectError, match="The index holds no picture"):
        best_pictures(text, PictureIndex((), (), torch.ones(0, 4), "m"))


# --- a whole reply


def whole_passes(gill, prompt, steps, bias):
    """The slow way: the whole sequence anew for each word, greedy, by the rules alone."""
    sequence, ids, pictures = prompt, [], []
    for _ in range(steps):
        logits = plain_states(gill, sequence)[1][0, -1].clone()
        logits[list(IMAGE[1:])] = -math.inf
        logits[IMAGE[0]] = abs(logits[IMAGE[0]]) * bias
        token = int(logits.argmax())
        if token in (2, gill.language.tokenizer.newline):
            break
        new = list(IMAGE) if token == IMAGE[0] else [token]
        ids += new
        sequence = torch.cat([sequence, gill.language.embed(new)], 1)
        if token == IMAGE[0]:
            pictures.append(plain_states(gill, sequence)[0][0, -8:])
            if len(pictures) == 2:
                break
    return ids, pictures


def test_a_reply_is_that_of_whole_passes(gill):
    """With a bias at which pictures come, but not in every reply at once."""
    counts = set()
    for seed in range(5):
        chance = torch.Generator().manual_seed(seed)
        prompt = gill.language.embed([2, *torch.randint(4, 280, (5,), generator=chance).tolist()])
        for bias in (1.5, 6.0, 40.0):
            found = decode(
                gill.language, prompt, DecodingSettings(max_new_tokens=6, picture_bias=bias, max_pictures=2), IMAGE
            )
            ids, pictures = whole_passes(gill, prompt, 6, bias)
            assert list(found.ids) == ids and len(found.states) == len(pictures)
            counts.add((len(ids), len(pictures)))
            if pictures:
                assert close(found.states, torch.stack(pictures))
    assert len(counts) > 2 and len({pictures for _, pictures in counts}) > 1


def test_forced_equals_the_path_of_the_decoder(gill):
    """One pass over the prompt and the eight tokens is what a huge bias comes to."""
    prompt = parse_prompt("<image1> the same in snow", {1: photo()})
    forced = gill.reply(prompt, DecodingSettings(mode="force picture"))
    biased = gill.reply(prompt, DecodingSettings(picture_bias=1000.0))
    embeddings = torch.cat([gill.embeddings(prompt), gill.language.embed(IMAGE)], 1)
    plain = gill.parts.conditioning(plain_states(gill, embeddings)[0][:, -8:])
    for reply in (forced, biased):
        assert reply.text == "" and reply.pictures == 1 and reply.conditioning.shape == (1, 77, 32)
        assert torch.allclose(reply.conditioning, plain, atol=1e-4)


def test_a_whole_reply_says_all_that_is_known(gill):
    settings = DecodingSettings(mode="force picture", min_words=3)
    reply = gill.reply(parse_prompt("a cat", {}), settings)
    assert reply.pictures == 1 and reply.embedding.vectors.norm(dim=-1).item() == pytest.approx(1)
    assert sum(reply.probabilities[0]) == pytest.approx(1) and "[IMG" not in reply.text
    assert reply.embedding.model == gill.space


def test_too_long_prompts(gill):
    long = parse_prompt("x" * 70, {})
    settings = DecodingSettings(mode="force picture", max_new_tokens=10)
    with pytest.raises(
        SubjectError, match="The prompt takes 71 positions and the reply up to 18, together more than the 64"
    ):
        gill.reply(long, settings)
    assert gill.embeddings(long, 18, cut=True).shape[1] == 46
    assert gill.reply(long, settings, cut=True).pictures == 1
    with pytest.raises(SubjectError, match="more than the 64"):
        gill.reply(long, DecodingSettings(max_new_tokens=64), cut=True)


def test_parts_that_do_not_belong_together(folder, gill):
    parts = random_parts(config=json_config(language_width=32))
    with pytest.raises(CheckpointError, match="is 24 wide, but this GILL model was trained for one of 32"):
        GILL(LanguageModel.from_folder(folder), parts)
    blind = copy.copy(gill)
    blind.tower = None
    with pytest.raises(SubjectError, match="no CLIP vision model to see them with"):
        blind.reply(parse_prompt("<image1>", {1: photo()}), DecodingSettings())
    blind.tower = ClipVision(tiny_clip(width=16))
    with pytest.raises(CheckpointError, match="vectors that are 16 wide, this GILL model takes 20"):
        blind.reply(parse_prompt("<image1>", {1: photo()}), DecodingSettings())


def json_config(**changes):
    return type(SMALL).from_json(json.dumps({**json.loads(SMALL.to_json()), **changes}))


def test_half_precision_is_close(folder):
    """bfloat16 in the language model, float32 in what was learned: within a few rounding errors of the states."""
    exact = GILL(LanguageModel.from_folder(folder), random_parts())
    half = GILL(LanguageModel.from_folder(folder, torch.bfloat16), random_parts())
    settings = DecodingSettings(mode="force picture")
    a, b = (each.reply(parse_prompt("a cat", {}), settings).conditioning for each in (exact, half))
    assert half.language.dtype == torch.bfloat16 and half.parts.rows.dtype == torch.float32
    assert F.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.98
