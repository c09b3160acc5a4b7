"""Chats: the exact ids, by templates in the published forms, and what cannot be read."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, pre_tokenizers
from transformers import AutoTokenizer

from depalm.datasets.manifest import Sample
from depalm.llms.base import LLM, LLMError
from depalm.llms.load import load_llm
from depalm.training.batches import encode
from tests.support.chats import CHATML, IDS, SPECIAL, write
from tests.support.llms import unigram_of_words
from tests.support.specs import llm_spec

THINKING = CHATML.replace(  # Qwen3: no thoughts are an empty thought
    "assistant\\n' }}{% endif %}",
    "assistant\\n' }}{% if enable_thinking is false %}{{ '<think>\\n</think>\\n' }}{% endif %}"
    "{% endif %}",
)
DATED = (  # Llama 3.2: BOS, the day, and content without white space around it
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d') %}{% endif %}"
    "{{ bos_token + '<|start|>system\\n' + date_string[:2] + '<|end|>' }}"
    "{% for message in messages %}"
    "{{ '<|start|>' + message['role'] + '\\n' + message['content'] | trim + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{% endif %}"
)
INST = (  # Mistral: an answer ends with EOS
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
ASKED = ["is", "Ġit", "<|end|>"]
MODEL = ["<|start|>", "assistant", "Ċ"]
SYSTEM = ["<|start|>", "system", "Ċ"]
USER = ["<|start|>", "user", "Ċ"]
TABLE: dict[str, tuple[str, bool, list[str], list[str], str]] = {
    "chatml": (
        *(CHATML, False, [*SYSTEM, "day", "<|end|>", "Ċ", *USER]),
        *([*ASKED, "Ċ", *MODEL], "<|end|>"),
    ),
    "thinking": (
        *(THINKING, False, [*SYSTEM, "day", "<|end|>", "Ċ", *USER]),
        *([*ASKED, "Ċ", *MODEL, "<think>", "Ċ", "</think>", "Ċ"], "<|end|>"),
    ),
    "dated": (
        *(DATED, True, ["<s>", *SYSTEM, "26", "<|end|>", *USER]),
        *([*ASKED, *MODEL], "<|end|>"),
    ),
    "inst": (INST, True, ["<s>", "[INST]", "Ġ"], ["is", "Ġit", "Ġ", "[/INST]"], "</s>"),
}


def write_pieces(folder: Path, template: str) -> list[str]:
    """The same with SentencePiece, for which "▁" is a space: its pieces by their ids."""
    write(folder, template)
    pieces = [*SPECIAL, "[INST]", "▁[/INST]", "▁is", "▁it", "▁yes", "▁"]
    numbers = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(unigram_of_words(numbers, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    return pieces


def loaded(folder: Path, **said: Any) -> LLM:
    spec = llm_spec({"family": "llama", "shape": {"layers": 3, "width": 32}, **said})
    return load_llm(spec, folder, "float32", "cpu")


def ids(pieces: list[str]) -> list[int]:
    return [IDS[piece] for piece in pieces]


@pytest.mark.parametrize("name", TABLE)
def test_the_ids_of_a_chat(tmp_path: Path, name: str) -> None:
    template, bos, front, prompt, end = TABLE[name]
    write(tmp_path, template, bos)
    llm = loaded(tmp_path, chat=True)
    assert llm.front == ids(front)
    assert llm.prompt_ids(["is it"]) == [ids(prompt)]
    assert llm.prompt_ids([" is it\n"]) == [ids(prompt)]
    # learned are the answer and the end of its turn alone
    [[(before, learned)]] = encode(llm, [Sample("1", "m", "is it", ["yes"])], 5).texts
    assert (before, learned) == (ids(prompt), ids(["yes", end]))
    assert llm.eos == IDS[end]
    # without anything between them, they are what the tokenizer makes of the whole
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    whole = tokenizer.apply_chat_template(
        [{"role": "user", "content": "is it"}],
        add_generation_prompt=True,
        enable_thinking=False,
        date_string="26 Jul 2024",
    )["input_ids"]
    assert llm.front + llm.prompt_ids(["is it"])[0] == whole


def test_a_space_before_the_prompt_belongs_to_it_for_sentencepiece(tmp_path: Path) -> None:
    pieces = write_pieces(tmp_path, INST)
    llm = loaded(tmp_path, chat=True)
    assert [pieces[i] for i in llm.front] == ["<s>", "[INST]"]
    [[(before, learned)]] = encode(llm, [Sample("1", "m", "is it", ["yes"])], 5).texts
    assert [pieces[i] for i in before] == ["▁is", "▁it", "▁[/INST]"]
    assert [pieces[i] for i in learned] == ["▁yes", "</s>"]


def test_a_caption_in_a_chat_needs_no_prompt(tmp_path: Path) -> None:
    write(tmp_path, CHATML)
    assert loaded(tmp_path, chat=True).prompt_ids([""]) == [ids(["<|end|>", "Ċ", *MODEL])]


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (None, "there is none: name a model that was made for chats, or leave `chat` out"),
        ("{{ 'always this' }}", r"it has the text of a turn 0 times: 'always this'"),
        ("{{ raise_exception('not now') }}", "it cannot be read: not now"),
        ("{{ messages[-1]['content'] }}", "no special token ends an answer: 'depalmanswer'"),
    ],
)
def test_a_template_that_does_not_say_what_stands_where(
    tmp_path: Path, template: str | None, why: str
) -> None:
    write(tmp_path, template)
    with pytest.raises(LLMError, match=f"the chat template in .*: {why}"):
        loaded(tmp_path, chat=True)


def test_without_bos_a_prompt_begins_with_itself(tmp_path: Path) -> None:
    write(tmp_path, None, bos=False)
    llm = loaded(tmp_path)
    assert llm.prompt_ids(["is it"]) == [ids(["is", "Ġit"])]
    [[text]] = encode(llm, [Sample("1", "m", "is it", ["yes"])], 5).texts
    assert text == (ids(["is", "Ġit"]), ids(["yes", "</s>"]))
    with pytest.raises(LLMError, match=r"has no BOS, .* say `answer_prompt`"):
        llm.prompt_ids(["is it", ""])
    assert loaded(tmp_path, answer_prompt="is").prompt_ids([""]) == [ids(["is"])]


def test_a_chat_has_its_own_ends(tmp_path: Path) -> None:
    write(tmp_path, CHATML, eos=None)
    assert loaded(tmp_path, chat=True).eos == IDS["<|end|>"]
    with pytest.raises(LLMError, match="has no eos_token_id"):
        loaded(tmp_path)
    with pytest.raises(ValueError, match="a chat has its own end of a prompt"):
        llm_spec({"shape": {"layers": 3, "width": 32}, "chat": True, "prompt_end": "</a>"})
