"""Rendering: the text of transformers, the spans of the tags, and nothing out of the sandbox."""

from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from services.chat.conversation import Conversation, Message, Role
from services.chat.errors import TemplateUnsupported
from services.chat.template import ChatTemplate

CONVERSATION = Conversation.of(
    Message(Role.SYSTEM, "Be <brief> & kind."),
    Message(Role.USER, "  Hi\n"),
    Message(Role.ASSISTANT, "Hello\n\nthere ", train=True),
    Message(Role.USER, "2 + 2?"),
    Message(Role.ASSISTANT, "4", train=True),
)
TAGGED = """\
{%- set ns = namespace(turns=0) %}
{% for m in messages %}
    {% if m.role == 'assistant' %}
        {%- set ns.turns = ns.turns + 1 %}
A{{ ns.turns }}: {% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}

    {% else %}
{{ m.role | upper }}: {{ m.content | trim }}
    {% endif %}
{% endfor %}
"""


def compiled(source: str) -> ChatTemplate:
    return ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"}, lambda: datetime.min)


def as_dicts(conversation: Conversation) -> list[dict[str, Any]]:
    return [{"role": m.role.value, "content": m.content} for m in conversation]


@pytest.mark.parametrize(
    "source",
    [
        TAGGED,
        "{{ messages | tojson }}",
        "{{ messages | tojson(indent=2, sort_keys=True) }}",
        "{{ dict(a=1) | tojson }}{{ bos_token }}{{ tools is none }}{{ documents is none }}",
        "{% for m in messages %}{% if loop.index == 2 %}{% break %}{% endif %}{{ m }}{% endfor %}",
        "{% macro turn(m) %}[{{ m.content }}]{% endmacro %}{{ turn(messages[0]) }}",
        "   {% if true %}\n  x\n   {% endif %}\n",
    ],
)
def test_the_text_is_that_of_transformers(source: str) -> None:
    (theirs,), _ = render_jinja_template(
        [as_dicts(CONVERSATION)], chat_template=source, bos_token="<s>", eos_token="</s>"
    )
    assert compiled(source).render(CONVERSATION).text == theirs


def test_spans_are_the_tagged_texts() -> None:
    rendering = compiled(TAGGED).render(CONVERSATION)
    tagged = [rendering.text[start:end] for start, end in rendering.spans]
    assert tagged == ["Hello\n\nthere </s>", "4</s>"]


def test_spans_are_found_inside_macros_and_captures() -> None:
    rendering = compiled(
        "{% macro turn(m) %}<{% generation %}{{ m.content }}{% endgeneration %}>{% endmacro %}"
        "{% set text %}{{ turn(messages[2]) }}{% endset %}head {{ text }}{{ turn(messages[4]) }}"
    ).render(CONVERSATION)
    assert rendering.text == "head <Hello\n\nthere ><4>"
    assert rendering.spans == ((6, 19), (21, 22))


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.text("\ufdd0\ufdd1\ufdd2a"))
def test_no_content_can_forge_a_span(question: str, answer: str) -> None:
    turns = (Message(Role.USER, question), Message(Role.ASSISTANT, answer))
    rendering = compiled(
        "{{ messages[0].content }}|{% generation %}{{ messages[1].content }}{% endgeneration %}|"
    ).render(Conversation(turns))
    assert rendering.text == f"{question}|{answer}|"
    assert rendering.spans == ((len(question) + 1, len(question) + 1 + len(answer)),)


ESCAPES = {
    "class attributes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals of a function": "{{ raise_exception.__globals__['re'] }}",
    "globals of a method": "{{ namespace.__init__.__globals__ }}",
    "private names in a namespace": "{% set n = namespace(__class__=1) %}",
    "mutation": "{{ messages.append(1) }}",
    "format strings": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "import": "{% import 'os' as os %}",
    "include": "{% include '/etc/passwd' %}",
    "endless ranges": "{% for i in range(1000000000) %}{% endfor %}",
}


@pytest.mark.parametrize("name", ESCAPES)
def test_the_sandbox_refuses(name: str) -> None:
    with pytest.raises(TemplateUnsupported):
        compiled(ESCAPES[name]).render(CONVERSATION)


@pytest.mark.parametrize("source", ["{% if %}", "{% generation %}", "{{ x", "{% endgeneration %}"])
def test_a_template_that_is_no_jinja_is_refused(source: str) -> None:
    with pytest.raises(TemplateUnsupported, match="does not compile"):
        compiled(source)


@pytest.mark.parametrize("source", ["{{ 1 / 0 }}", "{{ messages + 1 }}", "{{ 'a' * 'b' }}"])
def test_an_error_of_the_template_is_told_as_one(source: str) -> None:
    with pytest.raises(TemplateUnsupported, match="the chat template fails"):
        compiled(source).render(CONVERSATION)


def test_only_the_assistant_can_be_trained() -> None:
    with pytest.raises(ValueError, match="only assistant messages"):
        Message(Role.USER, "Hi", train=True)
