"""Conversations become tokens as transformers renders them, and the assistant's answers alone are learned."""

import json

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.data import inputs_of
from orchestrator.data.preparations.chat_template import OURS, ChatTemplate, UnfitError, messages_of
from orchestrator.data.preparations.conversations import ConversationsKind, answer_mask
from orchestrator.data.preparations.tokenizers import tokenizer_from_json, train_bpe
from orchestrator.data.prepare_data import prepare_job
from orchestrator.errors import DataError
from orchestrator.planning.plan import DataFacts
from orchestrator.planning.resolve import resolve
from orchestrator.spec.job import JobSpec
from orchestrator.spec.preparations import Conversations


def said(*texts, system=None):
    """A conversation of a user and the assistant in turn."""
    roles = ("user", "assistant") * len(texts)
    turns = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return [{"role": "system", "content": system}, *turns] if system else turns


CHATS = [
    said("what is one and one?", "two"),
    said("hello", "hello to you", "and now?", "  now we go on,\nsaid the cat "),
    said("say something of cats — ‘ähm’", "cats 🐈 sleep", "more", "they eat", system="you are brief"),
    said("no end", "the answer", "a question that stays open"),
]
MARKED = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.role == 'assistant' %}{% generation %}{{- message.content + '<|im_end|>' }}{% endgeneration %}"
    "{%- else %}{{- message.content + '<|im_end|>' }}{%- endif %}{{- '\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
PLAIN = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@pytest.fixture
def folder(tmp_path):
    """A tokenizer as a Hugging Face folder has it."""
    texts = [message["content"] for chat in CHATS for message in chat]
    library = json.loads(train_bpe(texts, 320, SPECIALS).to_json())["definition"]
    (tmp_path / "chat").mkdir()
    (tmp_path / "chat" / "tokenizer.json").write_text(json.dumps(library))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": PLAIN}
    (tmp_path / "chat" / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def section(**options):
    return Conversations.model_validate({"tokenizer": {"kind": "bytes"}, "context": 200, **options})


def of_file(**options):
    return section(tokenizer={"kind": "file", "path": "chat/tokenizer.json"}, **options)


def built(asked, chats=CHATS, base_dir="."):
    whole = pa.table({"messages": [json.dumps(chat) for chat in chats]})
    tables, kind = [whole.slice(start, 3) for start in range(0, len(chats), 3)], ConversationsKind()
    assert not [found for table in tables if (found := kind.unfit(asked, base_dir, table))]
    fitted = json.loads(json.dumps(kind.fit(asked, tables, base_dir)))
    return pa.concat_tables(list(kind.build(asked, fitted, tables))), fitted


def rows(table, name):
    return np.array(table[name].to_pylist())


def answers_of(chat):
    return [message["content"] for message in chat if message["role"] == "assistant"]


def number_of(tokenizer, special):
    return tokenizer.encode_marked([special])[0].ids.item()


@pytest.mark.parametrize(
    "tokenizer", [{"kind": "bytes"}, {"kind": "characters"}, {"kind": "bpe", "vocabulary": 300}]
)
def test_each_token_of_each_answer_and_its_end_is_learned_and_nothing_else(tokenizer):
    table, fitted = built(section(tokenizer=tokenizer))
    made = tokenizer_from_json(fitted["tokenizer"])
    end = made.specials["<end>"]
    assert fitted["answer_end"] == end
    tokens, length = rows(table, "tokens"), rows(table, "length")
    for chat, row, real, mask in zip(CHATS, tokens, length, rows(table, "answer_mask"), strict=True):
        assert not mask[real:].any()
        starts = np.flatnonzero(np.diff(mask, prepend=0) == 1)
        ends = np.flatnonzero(np.diff(mask, append=0) == -1)
        learned = [row[first : last + 1].tolist() for first, last in zip(starts, ends, strict=True)]
        assert [one[-1] for one in learned] == [end] * len(learned)
        assert [made.decode(one[:-1]) for one in learned] == answers_of(chat)
        assert all(row[first - 1] == number_of(made, "<assistant>") for first in starts)


def test_words_too():
    table, fitted = built(section(tokenizer={"kind": "words"}), [said("one two", "three four")])
    made = tokenizer_from_json(fitted["tokenizer"])
    want = [number_of(made, name) for name in ("<user>", "<end>", "<assistant>")]
    assert rows(table, "tokens")[0, [0, 3, 4]].tolist() == want
    assert rows(table, "answer_mask")[0, :9].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 0]


def test_tokens_and_mask_are_those_of_transformers(folder):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder / "chat")
    for template in (MARKED, PLAIN):
        (folder / "own.jinja").write_text(template)
        table, fitted = built(of_file(template="own.jinja"), base_dir=str(folder))
        assert fitted["answer_end"] == theirs.convert_tokens_to_ids("<|im_end|>")
        for place, chat in enumerate(CHATS):
            want = theirs.apply_chat_template(
                chat, chat_template=MARKED, return_assistant_tokens_mask=True, return_dict=True
            )
            real = rows(table, "length")[place]
            assert rows(table, "tokens")[place, :real].tolist() == want["input_ids"]
            assert rows(table, "answer_mask")[place, :real].tolist() == want["assistant_masks"]
            assert sum(want["assistant_masks"])


def test_the_template_beside_a_tokenizer_is_taken(folder):
    from_config, fitted = built(of_file(), base_dir=str(folder))
    assert fitted["template"] == PLAIN and fitted["variables"] == {"eos_token": "<|im_end|>"}
    before = ConversationsKind().fingerprint(of_file(), str(folder))
    (folder / "chat" / "chat_template.jinja").write_text(MARKED)
    from_file, fitted = built(of_file(), base_dir=str(folder))
    assert fitted["template"] == MARKED and from_file.equals(from_config)
    assert ConversationsKind().fingerprint(of_file(), str(folder)) != before
    (folder / "chat" / "chat_template.jinja").unlink()
    (folder / "chat" / "tokenizer_config.json").unlink()
    with pytest.raises(
        DataError, match=r"no chat template beside chat/tokenizer\.json .*give template: FILE"
    ):
        built(of_file(), base_dir=str(folder))


def test_packed_conversations_have_the_same_tokens_and_answers():
    apart, _ = built(section())
    table, _ = built(section(packed=True, context=16))
    tokens, mask = rows(table, "tokens"), rows(table, "answer_mask")
    stream = [np.concatenate([values[:1, 0], values[:, 1:].ravel()]) for values in (tokens, mask)]
    want = [
        np.concatenate(
            [row[:real] for row, real in zip(rows(apart, name), rows(apart, "length"), strict=True)]
        )
        for name in ("tokens", "answer_mask")
    ]
    for got, expected in zip(stream, want, strict=True):
        np.testing.assert_array_equal(got, expected[: len(got)])
    assert tokens.shape[1] == 17 and len(want[0]) - len(stream[0]) < 17
    assert set(rows(table, "document").max(axis=1)) > {0}


HISTORY = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role }}"
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content[:3] }}{% else %}{{ m.content }}{% endif %}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "chat", "problem"),
    [
        (HISTORY, CHATS[1], "writes message 1 in another way once others follow"),
        (
            OURS,
            [{"role": "tool", "content": "x"}, *CHATS[0]],
            "there are the roles system, user and assistant",
        ),
        ("{{ ''.__class__.__mro__ }}", CHATS[0], "is refused by the chat template: access to attribute"),
        ("{{ messages[9].role.x }}", CHATS[0], "is refused by the chat template"),
        (OURS, said("open"), "has no message of the assistant"),
    ],
)
def test_what_a_template_does_not_take_is_a_sentence(template, chat, problem):
    with pytest.raises(UnfitError, match=problem):
        ChatTemplate(template, (), ("<|im_end|>",)).rendered(chat)


def test_a_template_that_is_none_is_a_sentence():
    with pytest.raises(DataError, match="the chat template can't be read"):
        ChatTemplate("{% for %}", (), ()).rendered(CHATS[0])


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("not json", "is no JSON"),
        ("{}", "is no list of messages"),
        ([], "has no messages"),
        ([["user", "x"]], "has a message 0 that is no object with role and content"),
        ([{"role": "user"}], "has a message 0 whose content is missing, not a text"),
        ([{"role": "user", "content": 3}], "has a message 0 whose content is 3, not a text"),
        ([{"role": "user", "content": " "}], "has a message 0 whose content is empty"),
    ],
)
def test_what_is_no_conversation_is_said(value, problem):
    with pytest.raises(UnfitError, match=problem):
        messages_of(value)


def job(tmp_path, chats, as_json=False, **more):
    lines = [{"messages": json.dumps(chat) if as_json else chat} for chat in chats]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return JobSpec.model_validate(
        {
            "name": "chats",
            "model": {"family": "gpt", "size": "debug", "context": 200},
            "data": {
                "train": {"kind": "jsonl", "path": str(tmp_path / "chats.jsonl")},
                "prepare": section().model_dump(mode="json"),
                **more,
            },
            "training": {"max_steps": 1, "global_batch_size": 2},
        }
    )


@pytest.mark.parametrize("as_json", [False, True])
def test_a_bad_conversation_is_said_with_file_and_row_and_can_be_skipped(tmp_path, as_json):
    bad = [*CHATS[:2], said("spell <end> for me", "no"), said("nobody answers"), *CHATS[2:]]
    asked = job(tmp_path, bad, as_json)
    with pytest.raises(
        DataError,
        match=r"chats\.jsonl, row 2: the conversation in column 'messages' has a message 0 that spells the special"
        r" token '<end>'.*; mend it, leave the row out, or have data\.skip_bad_samples \(now 0\) allow some",
    ):
        prepare_job(asked, str(tmp_path), str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"row 3: .* has no message of the assistant"):
        prepare_job(job(tmp_path, bad, as_json, skip_bad_samples=1), str(tmp_path), str(tmp_path / "cache"))
    skipping = job(tmp_path, bad, as_json, skip_bad_samples=2)
    prepared = prepare_job(skipping, str(tmp_path), str(tmp_path / "cache"))
    assert prepared.train_samples == len(CHATS)
    assert any("2 of 6 training rows" in note for note in prepared.notes)
    assert prepared.tensors["answer_mask"] == ("int", (201,))


def test_a_conversation_that_is_too_long_is_said_with_its_row(tmp_path):
    asked = job(tmp_path, CHATS, prepare=section(context=30).model_dump(mode="json"))
    with pytest.raises(DataError, match=r"chats\.jsonl, row 1: the conversation has \d+ tokens, and 31 fit"):
        prepare_job(asked, str(tmp_path), str(tmp_path / "cache"))
    skipping = job(tmp_path, CHATS, prepare=section(context=30).model_dump(mode="json"), skip_bad_samples=4)
    prepared = prepare_job(skipping, str(tmp_path), str(tmp_path / "cache"))
    assert 0 < prepared.train_samples < len(CHATS)


def test_an_answer_goes_on_from_what_training_had_before_it(tmp_path):
    asked = job(tmp_path, CHATS)
    prepared = prepare_job(asked, str(tmp_path), str(tmp_path / "cache"))
    resolved = resolve(asked, DataFacts(dims=prepared.dims, lists=prepared.lists, tensors=prepared.tensors))
    inputs = inputs_of(resolved, prepared)
    tokenizer = inputs.tokenizer()
    question = "what is one and one?"
    prompt = inputs.prompt(question)
    assert prompt.tolist() == inputs.prompt(CHATS[0]).tolist() == inputs.prompt(json.dumps(CHATS[0])).tolist()
    assert prompt[0] == tokenizer.specials["<user>"] and prompt[-1] == tokenizer.specials["<assistant>"]
    assert tokenizer.decode(prompt) == question
    (whole,) = tokenizer.encode_marked([f"<user>{question}<end><assistant>two<end>"])
    assert whole.ids[: len(prompt)].tolist() == prompt.tolist()
    assert inputs.written([*whole.ids[len(prompt) :], 65]) == "two"
    table = pa.table({"messages": [CHATS[0], CHATS[3]]})
    tensors = inputs.tensors(table)
    assert tensors["tokens"][0, : tensors["length"][0]].tolist() == prompt.tolist()
    with pytest.raises(DataError, match="the conversation has nothing to answer"):
        inputs.prompt([{"role": "assistant", "content": "so"}])


def test_a_token_that_has_a_character_of_an_answer_is_of_it():
    (marked,) = tokenizer_from_json('{"kind": "bytes", "specials": ["<end>"]}').encode_marked(["aé<end>b"])
    assert marked.ids.tolist() == [97, 195, 169, 256, 98]
    assert (marked.begins.tolist(), marked.ends.tolist()) == ([0, 1, 1, 2, 7], [1, 2, 2, 7, 8])
    assert answer_mask(marked, [(1, 7)]).tolist() == [0, 1, 1, 1, 0]
