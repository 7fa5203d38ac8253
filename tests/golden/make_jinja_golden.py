#!/usr/bin/env python3
"""Writes jinja_vectors.json: small templates, and what Jinja makes of them, set up as Transformers does.

    pip install transformers==5.24.0 jinja2==3.1.6
    python3 tests/golden/make_jinja_golden.py

A case is {"template", "variables", "text"}; "text" is null where Jinja refuses or raises. `FAMILIES` are templates in
the manner of public models, spelled anew; `PIECES` show a construct each.
"""
import datetime
import json
import os
import sys

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
from transformers.utils import chat_template_utils  # noqa: E402


class FixedDay(datetime.datetime):
    """strftime_now must not depend on the day."""

    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26)


chat_template_utils._cached_compile_jinja_template.__globals__["datetime"] = FixedDay

FAMILIES = {
    "mistral": """{%- if messages[0]["role"] == "system" %}{%- set system = messages[0]["content"] %}{%- set rest = messages[1:] %}
{%- else %}{%- set rest = messages %}{%- endif %}
{{- bos_token }}
{%- for message in rest %}
    {%- if (message["role"] == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("roles must alternate user/assistant/user/...") }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {{- "[INST] " + (system + "\\n\\n" if loop.last and system is defined else "") + message["content"] + "[/INST]" }}
    {%- else %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- endif %}
{%- endfor %}
""",
    "gemma": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}
{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}
{{ '<start_of_turn>' + role + '
' + message['content'] | trim + '<end_of_turn>
' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model
'}}{% endif %}""",
    "phi": """{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' + '<|end|>' }}{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}""",
    "deepseek": """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}
{% set ns = namespace(is_first=true, is_tool=false, system_prompt='') %}
{%- for message in messages if message['role'] == 'system' %}{% set ns.system_prompt = ns.system_prompt + message['content'] %}{%- endfor %}{{ bos_token }}{{ ns.system_prompt }}
{%- for message in messages %}
  {%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{ '<User>' + message['content'] }}{%- endif %}
  {%- if message['role'] == 'assistant' and message['content'] is not none %}
    {%- set content = message['content'] %}
    {%- if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}
    {{- '<Assistant>' ~ content ~ '<end>' }}
  {%- endif %}
  {%- if message['role'] == 'tool' %}{{ ('<out>' if ns.is_tool else '<outs><out>') ~ message['content'] ~ '</out>' }}{% set ns.is_tool = true %}{%- endif %}
{%- endfor -%}
{% if ns.is_tool %}{{ '</outs>' }}{% endif %}{% if add_generation_prompt and not ns.is_tool %}{{ '<Assistant><think>\\n' }}{% endif %}""",
    "smollm": """{%- set date = strftime_now('%d %B %Y') -%}
{%- if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif -%}
{%- macro line(role, text='') %}<|im_start|>{{ role }}
{{ text }}<|im_end|>
{% endmacro -%}
{{ line('system', '## Metadata\\n\\nToday Date: ' ~ date ~ '\\nReasoning Mode: ' ~ ('/think' if enable_thinking else '/no_think')) }}
{%- for message in messages -%}
  {%- set content = message.content if message.content is string else '' -%}
  {%- if message.role == 'assistant' -%}
{% generation %}{{ line('assistant', content.lstrip('\\n')) }}{% endgeneration %}
  {%- elif message.role != 'system' -%}
{{ line(message.role, content) }}
  {%- endif -%}
{%- endfor -%}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
    "granite": """{%- set loop_messages = [{'role': 'system', 'content': 'Default.'}] + messages if messages[0].role != 'system' else messages %}
{%- for message in loop_messages %}
{{ '<|start_of_role|>' ~ message.role ~ '<|end_of_role|>' ~ message.content ~ '<|end_of_text|>' }}
{%- if loop.last and add_generation_prompt %}
{{ '<|start_of_role|>assistant<|end_of_role|>' }}
{%- endif %}
{%- endfor %}
{%- if tools %}{% for tool in tools %}
{{ tool | tojson(indent=2) }}{% if not loop.last %},{% endif %}
{% endfor %}{% endif %}""",
    "zephyr": """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
""",
    "command": """{%- macro describe(name, fields) -%}
    def {{ name }}({% for key, value in fields.items() | sort %}{{ key }}: {{ {'string': 'str', 'number': 'float'}[value.type] }}{{ ', ' if not loop.last }}{% endfor %}):
{%- endmacro -%}
{{ bos_token }}{% for tool in tools or [] %}{{ describe(tool.function.name, tool.function.parameters.properties) }}
{% endfor %}{% for message in messages %}{{ '<|START|>' if loop.first else '<|NEXT|>' }}{{ message.role | upper }}: {{ message.content.strip() | replace('\\n', ' ') }}{% endfor %}""",
}

user = lambda text: {"role": "user", "content": text}  # noqa: E731
said = lambda text: {"role": "assistant", "content": text}  # noqa: E731
TOOLS = [{"type": "function", "function": {"name": "get", "description": "\"now\" for é", "parameters": {
    "type": "object", "properties": {"unit": {"type": "string"}, "city": {"type": "string"}, "n": {"type": "number"}}}}}]
CONVERSATIONS = [
    [user("Hello!")],
    [{"role": "system", "content": " Be terse. "}, user("a\n"), said("  b "), user("c")],
    [user("x"), said("<think>\nhm\n</think>\n\nd"), user("é 漢 \U0001F600"), said("last\n")],
    [user("two"), user("in a row")],
    [user("t"), said(""), {"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}],
    [user([{"type": "text", "text": "part"}])],
]

PIECES = [
    # White space around tags
    "a\n{% if true %}\n  b\n{% endif %}\nc\n", "  {% if true %}  x  {%- endif %}  \n\n", "a {{- ' b ' -}} c", "x\n  {#- note -#}  \ny",
    "x\n  {# note #}\ny", "  {%+ if true %}y{% endif +%}\nz", "{% raw %}{{ a }}{% if %}{% endraw %}!", "a\r\nb\rc\n\n", "{{ 'a' }}\n{{ 'b' }}\n",
    "\t{% set a = 1 %}\t\n{{ a }}", "{%- raw -%}  {{ x }}  {%- endraw -%}  y", "{{ '}}' }}{{ {'a': {'b': 1}}['a']['b'] }}",
    # Literals and printing
    "{{ 1 }} {{ 1.0 }} {{ 1e16 }} {{ 1e-7 }} {{ 0.1 }} {{ 1_000 }} {{ -2.50 }} {{ 123456789012345680.0 }}",
    "{{ none }} {{ None }} {{ true }} {{ False }} {{ [1, 'a', none, 2.5, true] }} {{ {'k': [1], 2: 'x'} }} {{ (1,) }} {{ (1, 2) }} {{ [] }} {{ {} }}",
    r'''{{ 'a\tb\n\'q\' \x41\u00e9\U0001F600 \d' }}{{ "it's" }}{{ 'ab' 'cd' }}''', "{{ ['it\\'s', 'say \"x\"', 'a\\nb\\\\c'] }}", "{{ missing }}|{{ missing.x is defined }}",
    "{{ d.missing }}|{{ d['missing'] }}|{{ s.missing }}|{{ l[9] }}",
    # Operators
    "{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 1 + 2.5 }} {{ 'a' * 3 }} {{ [1] * 2 }} {{ [1] + [2] }}",
    "{{ 1 + 2 * 3 - 4 }} {{ (1 + 2) * 3 }} {{ 'a' ~ 1 ~ none ~ 2.0 }} {{ -3 | abs }} {{ 10 - 3 - 2 }} {{ 'x' ~ 1 + 2 }}",
    "{{ 1 < 2 < 3 }} {{ 1 < 2 > 3 }} {{ 1 == 1.0 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ true == 1 }} {{ none == false }} {{ {'a': 1} == {'a': 1} }}",
    "{{ 'b' in 'abc' }} {{ 'x' not in ['x'] }} {{ 'a' in d }} {{ not 'a' in d }} {{ 1 in [1.0] }} {{ '' in 'x' }}",
    "{{ 0 or 'x' }} {{ 'a' and 'b' }} {{ not 0 }} {{ 'x' if 0 }}|{{ 'x' if 1 else 'y' }} {{ 'a' if false else 'b' if false else 'c' }} {{ 1 and 0 or 5 }}",
    "{{ 'a' + 1 }}", "{{ missing + 'a' }}", "{{ 1 / 0 }}", "{{ 1 < 'a' }}", "{{ missing.x.y }}", "{{ l | nosuch }}", "{{ l is nosuch }}", "{% nosuch %}", "{{ nosuch() }}", "{{",
    "{% if %}", "{% for x in l %}", "{{ 'abc }}", "{# open", "{{ 1 | tojson( }}", "{{ 9223372036854775807 }}", "{% endif %}", "{{ a b }}", "{% set a.b = 1 %}",
    # Strings
    "{{ s[0] }} {{ s[-1] }} {{ s[1:3] }} {{ s[::-1] }} {{ s[:-1] }} {{ s[5:1] }} {{ s | length }} {{ s[::2] }} {{ s[-2:] }} {{ s[10:] }}|",
    "{{ ' x '.strip() }}|{{ ' x '.lstrip() }}|{{ ' x '.rstrip() }}|{{ 'xxaxx'.strip('x') }}|{{ ' \u3000x\u00a0 ' | trim }}|{{ 'éaé'.strip('é') }}|",
    "{{ 'a b  c'.split() }} {{ 'a,b,,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ ' a b c '.split(none, 1) }} {{ ''.split(',') }}",
    "{{ 'abc'.startswith('ab') }} {{ 'abc'.endswith(('x', 'c')) }} {{ 'abcabc'.replace('b', 'X') }} {{ 'abcabc'.replace('b', 'X', 1) }} {{ 'aXb'.find('X') }} {{ 'é漢x'.find('x') }} {{ 'a'.find('z') }}",
    "{{ 'aBc dEf'.upper() }} {{ 'ÀÉ'.lower() }} {{ 'hello wOrld-x'.title() }} {{ 'hELLO w'.capitalize() }} {{ 'abab'.count('ab') }} {{ 'abab'.rfind('b') }} {{ '12'.isdigit() }} {{ '-'.join(['a', 'b']) }}",
    "{{ 'a\\nb\\r\\nc\\n'.splitlines() }} {{ 'prefix-x'.removeprefix('prefix-') }} {{ 'x.py'.removesuffix('.py') }} {{ 'hello world' | title }} {{ 'a' | upper }}",
    "{{ 'a\\nb\\n\\nc' | indent }}|{{ 'a\\nb' | indent(2, true) }}|{{ 'a\\n\\nb' | indent(1, false, true) }}|{{ '<a href=\"x\">&\\'' | e }}",
    "{{ 'abc' | first }}{{ 'abc' | last }}{{ 'abc' | reverse }}{{ 'abc' | list }}{{ 'a-b' | replace('-', '+') }}",
    # Filters
    "{{ l | join(', ') }} {{ l | length }} {{ l | first }} {{ l | last }} {{ l | sum }} {{ l | max }} {{ l | min }} {{ l | sort(reverse=true) }} {{ l | reverse | list }} {{ [3, 1, 3] | unique | list }}",
    "{{ r | map(attribute='n') | list }} {{ r | map(attribute='n') | join('+') }} {{ r | selectattr('n', 'equalto', 2) | list }} {{ r | rejectattr('n', 'gt', 1) | map(attribute='s') | list }} {{ ['a', 'b'] | map('upper') | list }} {{ l | select('odd') | list }} {{ l | reject('odd') | list }} {{ r | selectattr('x') | list }} {{ r | sort(attribute='s') | map(attribute='s') | join }}",
    "{{ missing | default('d') }} {{ '' | default('d', true) }} {{ none | default('d') }} {{ none | d('d', boolean=true) }} {{ '12' | int + 1 }} {{ 'x' | int }} {{ '1.5' | float }} {{ 3.7 | int }} {{ 2.5 | round }} {{ 3.14159 | round(2) }} {{ true | string }} {{ 5 | string | length }}",
    "{{ d | items | list }} {{ d | dictsort }} {% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %} {{ d.keys() | list }} {{ d.values() | list }} {{ d.get('a') }} {{ d.get('zz') }} {{ d.get('zz', 'o') }} {{ d | length }}",
    "{{ d | tojson }} {{ r | tojson(indent=2) }} {{ 'é\\n\"\\u2028' | tojson }} {{ 'é😀' | tojson(ensure_ascii=true) }} {{ d | tojson(separators=(',', ':')) }} {{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }} {{ [] | tojson(indent=1) }} {{ [1.5, none, true] | tojson }}",
    # Tests
    "{{ 1 is number }} {{ 'a' is string }} {{ d is mapping }} {{ l is iterable }} {{ l is sequence }} {{ none is none }} {{ missing is undefined }} {{ 1 is not none }} {{ 4 is divisibleby 2 }} {{ 3 is odd }} {{ 1 is eq 1 }} {{ 'a' is in 'abc' }} {{ true is boolean }} {{ 1 is boolean }} {{ 1.0 is float }} {{ 1 is integer }} {{ range is callable }} {{ 'a' is lower }} {{ true is true }} {{ 1 is true }} {{ s is defined and s is string }}",
    # Statements
    "{% for x in l %}{{ loop.index }}/{{ loop.length }}:{{ x }}{{ ', ' if not loop.last }}{% endfor %}", "{% for x in [] %}a{% else %}none{% endfor %}",
    "{% for x in l if x > 1 %}{{ loop.index0 }}{{ loop.first }}{{ loop.revindex }}{% endfor %}", "{% for x in l %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 3 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for a, b in [[1, 2], [3, 4]] %}{{ a + b }} {% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for c in 'añ' %}[{{ c }}]{% endfor %}", "{% for x in l %}{{ loop.cycle('odd', 'even') }}{{ loop.previtem }}{{ loop.nextitem }} {% endfor %}",
    "{% set x = 1 %}{% for i in l %}{% set x = i %}{{ x }}{% endfor %}{{ x }}", "{% set ns = namespace(n=0, s='') %}{% for i in l %}{% set ns.n = ns.n + i %}{% set ns.s = ns.s ~ i %}{% endfor %}{{ ns.n }}{{ ns.s }}",
    "{% if false %}a{% elif 0 %}b{% elif 1 %}c{% else %}d{% endif %}{% if true %}{% set y = 3 %}{% endif %}{{ y }}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set t %}x{{ a }}y{% endset %}{{ t | upper }}{% set u | upper %}abc{% endset %}{{ u }}",
    "{% macro m(a, b='B', c=none) %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, c=2) }}{{ m(b=3, a=4) }}{{ m() }}", "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
    "{% macro m(t) %}<{{ t }}>{{ caller() }}</{{ t }}>{% endmacro %}{% call m('b') %}in{% endcall %}", "{% macro m() %}{{ caller(1, 2) }}{% endmacro %}{% call(a, b) m() %}{{ a }}+{{ b }}{% endcall %}", "{% set g = 'top' %}{% macro m() %}{{ g }}{% endmacro %}{% set g = 'later' %}{{ m() }}",
    "{% filter upper %}a{{ s }}{% endfilter %}", "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a }}", "{% generation %}{{ s }}{% endgeneration %}", "{{ raise_exception('no') }}", "{{ range(3) | list }} {{ range(1, 7, 2) | list }} {{ range(3, 0, -1) | list }}",
    "{{ dict(a=1, b='x') }} {{ dict({'q': 1}, r=2) }} {{ strftime_now('%Y-%m-%d %d %b %B') }}", "{% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(*[1, 2]) }}", "{{ l.append(4) }}", "{{ d.pop('a') }}", "{{ ''.__class__ }}", "{{ d.__class__.__mro__ }}",
    "{% for x in l %}{% for y in l %}{{ loop.index }}{% endfor %}{{ loop.index }} {% endfor %}", "{{ l[1:] }} {{ l[:1] }} {{ l[::-1] }} {{ l[-1] }} {{ r[0].s }} {{ r[-1]['n'] }}", "{{ l.index(2) }}", "{% set x = l if l is iterable and l is not mapping else [l] %}{{ x }}",
    # Arguments of filters that are easily passed over; ways of several steps; what Python does not print as it is
    "{{ [1, 2] | sum(start=5) }} {{ r | sum(attribute='n') }} {{ [1.5, 2] | sum }} {{ [[1], [2]] | sum(start=[]) }} {{ ['A', 'a', 'b'] | unique | list }} {{ ['A', 'a'] | unique(true) | list }} {{ r | unique(attribute='n') | list }}",
    "{{ ['b', 'A', 'c'] | min }} {{ ['b', 'A', 'c'] | max }} {{ ['b', 'A'] | max(case_sensitive=true) }} {{ r | max(attribute='n') }} {{ ['b', 'A'] | sort }} {{ ['b', 'A', 'C'] | sort(case_sensitive=true) }}",
    "{{ 2.567 | round(1, 'floor') }} {{ 2.567 | round(1, method='ceil') }} {{ 42 | round }} {{ -2.5 | round }} {{ 1234 | round(-2) }} {{ 2.675 | round(2) }} {{ 0.285 | round(2) }}",
    "{{ 'x' | int(7) }} {{ 'ff' | int(0, 16) }} {{ 'x' | float(2.5) }} {{ '0x1f' | int }} {{ ' 12 ' | int }} {{ '  ' | int }} {{ '' | int(3) }} {{ 'nan' | int }} {{ '1e2' | float }}",
    "{{ [{'f': {'name': 'x', 'l': [7]}}] | map(attribute='f.name') | join(',') }} {{ [{'f': {'l': [7]}}] | map(attribute='f.l.0') | list }} {{ [{'f': {'n': 2}}, {'f': {'n': 1}}] | sort(attribute='f.n') | list }} {{ [{'f': {'n': 2}}] | selectattr('f.n', 'equalto', 2) | list | length }} {{ [{'f': {}}] | map(attribute='f.n', default='D') | list }} {{ [['x', 1]] | map(attribute=1) | list }} {{ [{'f': 1}] | join(',', attribute='f') }}",
    "{{ [{'a': 1}] | map(attribute='b.c') | list }}",
    "{{ ['\u00a0', '\u200b', '\u2028', '\ufeff', 'é', '\ue000', '\u0085', '\u3000', '\U000e0001', ' '] }} {{ {'\u2029': \"it's\"} }}",
    "{{ 'ß\ufb01' | upper }} {{ 'ŉ'.upper() }} {{ 'ẞ' | upper }} {{ \"it's o'neil 3rd\" | title }} {{ \"it's o'neil 3rd\".title() }} {{ 'ǆ'.title() }}",
    "{{ 'İI' | lower }} {{ 'ΣΑΣ. ΑΣ’Σ ΣΣ' | lower }} {{ 'ΑΣ'.lower() }} {{ 'ΑΣ ΟΔΟΣ' | title }} {{ 'ΑΣ ΟΔΟΣ'.title() }} {{ 'οΔΟΣ' | capitalize }} {{ '\ufb01x' | capitalize }} {{ 'ŉx ᾳx ᾷx ßx'.title() }} {{ 'ßx \ufb01x' | title }} {{ 'ªb ʰc'.title() }}",
    "{{ '1' is lower }} {{ 'a1' is lower }} {{ '1' is upper }} {{ 'A1' is upper }} {{ 'Aa' is upper }}",
    # Tests by the signs of operators
    "{{ r | selectattr('n', '==', 2) | list }} {{ r | rejectattr('s', '!=', 'b') | map(attribute='s') | join }} {{ l | select('<', 2) | list }} {{ l | select('<=', 2) | list }} {{ l | reject('>', 1) | list }} {{ l | select('>=', 2) | list }}",
    "{{ r | selectattr('n', 'eq', 1) | list | length }} {{ r | selectattr('n', 'ne', 1) | list | length }} {{ l | select('lt', 2) | list }} {{ l | select('le', 2) | list }} {{ l | select('ge', 3) | list }} {{ l | select('in', [1, 3]) | list }} {{ l | reject('equalto', 1) | list }}",
    "{{ l | select('nosuch') | list }}", "{{ l | map('nosuch') | list }}", "{{ r | selectattr('n', '===', 2) | list }}", "{{ r | rejectattr('n', 'nosuch', 2) | list }}",
    # loop.changed
    "{% for x in [1, 1, 2, 2, 1] %}{{ x if loop.changed(x) }},{% endfor %}", "{% for x in ['a', 'a', none, none] %}{{ loop.changed(x) }} {{ loop.changed(x) }} {% endfor %}",
    "{% for m in [['u', 1], ['u', 2], ['a', 2]] %}{% for x in m %}{{ loop.changed(x) }}{% endfor %}{{ loop.changed(m[0], 1) }}{{ loop.changed() }};{% endfor %}",
    # Whole numbers of other bases; repeating from both sides
    "{{ 0x1F }} {{ 0Xff }} {{ 0o17 }} {{ 0b1_01 }} {{ 0x_f }} {{ 1_0 }} {{ 00 }} {{ 0xFFFF_FFFF }} {{ 'abc'[0x1] }}", "{{ 0b12 }}", "{{ 0x }}", "{{ 0o8 }}", "{{ 0xg }}",
    "{{ 3 * 'x' }}|{{ 2 * [1, 'a'] }}|{{ 0 * 'x' }}|{{ -1 * 'x' }}|{{ 'x' * -1 }}|{{ 2 * 'é' * 2 }}", "{{ 'a' * 'b' }}", "{{ 1.5 * 'x' }}",
    # Further methods of strings
    "{{ 'a=b=c'.partition('=') }} {{ 'abc'.partition('=') }} {{ 'a=b=c'.rpartition('=') }} {{ 'abc'.rpartition('=') }} {{ ''.partition('x') }} {{ 'a</t>b'.partition('</t>')[2] }}", "{{ 'a'.partition('') }}", "{{ 'a'.partition() }}",
    "{{ 'abc'.isalpha() }} {{ 'aé漢ªʰ'.isalpha() }} {{ 'a1'.isalpha() }} {{ ''.isalpha() }} {{ 'a1²Ⅷ'.isalnum() }} {{ 'a b'.isalnum() }} {{ ''.isalnum() }} {{ 'a\u0301'.isalpha() }} {{ '_'.isalnum() }}",
    "{{ ' \t\n\u00a0\u3000\x1c'.isspace() }} {{ ' x'.isspace() }} {{ ''.isspace() }} {{ '\u200b'.isspace() }} {{ '12٣'.isdecimal() }} {{ '1²'.isdecimal() }} {{ '1²٣①'.isdigit() }} {{ '½'.isdigit() }} {{ 'Ⅷ'.isdigit() }} {{ 'az\x7f'.isascii() }} {{ 'é'.isascii() }} {{ ''.isascii() }}",
    "{{ 'abc1'.islower() }} {{ 'aBc'.islower() }} {{ '1'.islower() }} {{ 'ABC1'.isupper() }} {{ ''.isupper() }} {{ 'É'.isupper() }} {{ 'ªʰ'.islower() }} {{ '𝔸🄰'.isupper() }} {{ 'ǅ'.isupper() }} {{ 'aǅ' is lower }}",
    "{{ 'aBc Éß ǅ ŉ'.swapcase() }} {{ 'ΑΣ ΟΣΑ İ'.swapcase() }} {{ 'ⅷⅧ ⓐⒶ'.swapcase() }} {{ 'σς'.swapcase() }}",
    "{{ 'ab'.center(5) }}|{{ 'abc'.center(6) }}|{{ 'abc'.center(8, '*') }}|{{ 'ab'.center(7, 'é') }}|{{ 'abc'.center(2) }}|{{ ''.center(3) }}|{{ 'ab'.ljust(4) }}|{{ 'ab'.rjust(4, '.') }}|{{ '-4'.zfill(5) }}|{{ '+é'.zfill(4) }}|{{ '12'.zfill(1) }}|{{ 'x'.zfill(3) }}|", "{{ 'a'.center(3, 'ab') }}", "{{ 'a'.ljust() }}",
    "{{ 'ab' | center(6) }}|{{ 12 | center(width=5) }}|{{ 'ab' | center | length }}|{{ 'abc' | center(-1) }}|",
    "{{ 'a\tbc\td'.expandtabs() }}|{{ 'é\tb\n\tc'.expandtabs(4) }}|{{ 'a\tb'.expandtabs(0) }}|{{ '\t\tx'.expandtabs(tabsize=2) }}|{{ 'a\tb\r\tc'.expandtabs(-3) }}|",
    "{{ 'añb'.index('b') }} {{ 'abab'.rindex('b') }} {{ [1, 2, 1].count(1) }} {{ (1, 'a').count('a') }} {{ d.copy() }} {{ l.copy() }}", "{{ 'a'.index('x') }}", "{{ 'a'.rindex('x') }}",
    # Words
    "{{ 'one two  three' | wordcount }} {{ \"it's a_b c-d é漢 1.5\" | wordcount }} {{ '' | wordcount }} {{ 12 | wordcount }} {{ 'a\u0301b' | wordcount }} {{ '... !' | wordcount }}",
    "{{ 'foo bar baz qux' | truncate(9) }}|{{ 'foo bar baz qux' | truncate(9, true) }}|{{ 'foo bar baz qux' | truncate(11) }}|{{ 'foo bar baz qux' | truncate(11, false, '...', 0) }}|{{ 'foobarbazqux' | truncate(5, leeway=0) }}|{{ 'éé éé éé éé' | truncate(6, end='…', leeway=1) }}|{{ ('x' * 300) | truncate | length }}|{{ ('x y' * 100) | truncate | length }}|{{ 'ab cd' | truncate(3, true, '', 0) }}|{{ missing | truncate }}",
    "{{ 'abc' | truncate(2) }}", "{{ 'abc' | truncate(5, leeway=-1) }}", "{{ 12 | truncate }}",
    "{{ l | batch(2) | list }} {{ l | batch(2, 'x') | list }} {{ [] | batch(2, 'x') | list }} {{ 'abcd' | batch(3, fill_with=0) | list }} {{ l | batch(9) | list }}",
    # Names that are not known, in branches that are not reached too
    "{{ 'a'.nosuch() }}", "{{ d.nosuch() }}", "{% for x in l %}{{ x.nosuch }}{% endfor %}",
    "{% set ns = namespace() %}{% macro m(x) %}<{{ x }}>{% endmacro %}{% set ns.show = m %}{{ ns.show(1) }}", "{% macro m() %}M{% endmacro %}{% set f = {'show': m} %}{{ f.show() }}{% set g = namespace(other=m) %}{{ g.other() }}",
    # Keys of JSON
    "{{ {2: 'b', 1: 'a', 10: 'c'} | tojson(sort_keys=true) }} {{ {1.5: 1, 1: 2, true: 3, false: 4} | tojson(sort_keys=true) }} {{ {none: 1} | tojson(sort_keys=true) }} {{ {none: 1, true: 2, 1.5: 3, 2: 4} | tojson }}",
    "{{ {'b': 1, '': 2, 'a': 3} | tojson(sort_keys=true) }} {{ '' < 'a' }} {{ ['', 'a', ''] | sort }}", "{{ {1: 2, 'a': 3} | tojson(sort_keys=true) }}", "{{ {'a': 3, none: 2} | tojson(sort_keys=true) }}",
]
VARIABLES = {"s": "añ漢😀", "l": [1, 2, 3], "d": {"a": 1, "b": "x"}, "r": [{"n": 1, "s": "b"}, {"n": 2, "s": "A", "x": True}]}


def render(template, variables):
    try:
        return chat_template_utils._compile_jinja_template(template).render(**variables)
    except Exception:  # whatever Jinja refuses
        return None


def main():
    cases = []
    for template in FAMILIES.values():
        for messages in CONVERSATIONS:
            for more in ({"add_generation_prompt": True}, {"add_generation_prompt": False, "tools": TOOLS, "enable_thinking": False}):
                variables = {"messages": messages, "bos_token": "<s>", "eos_token": "</s>", **more}
                cases.append({"template": template, "variables": variables, "text": render(template, variables)})
    for template in PIECES:
        cases.append({"template": template, "variables": VARIABLES, "text": render(template, VARIABLES)})
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "jinja_vectors.json")
    with open(path, "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases) + "\n]\n")
    print(f"{len(cases)} cases, {sum(case['text'] is None for case in cases)} refused", file=sys.stderr)


if __name__ == "__main__":
    main()
