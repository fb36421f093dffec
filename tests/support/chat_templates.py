"""Chat templates with the structure of those that models of Qwen have, without tools."""

from __future__ import annotations

from pathlib import Path

# Of the demo's base model: as Qwen3-VL-Instruct.
INSTRUCT = (Path(__file__).parents[2] / "demo" / "base" / "chat_template.jinja").read_text()
CONTENT = """
{%- macro text(content) -%}
    {%- if content is string %}{{- content }}
    {%- else %}
        {%- for part in content %}
            {%- if part.type == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- elif 'text' in part %}{{- part.text }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
{%- endmacro %}
"""
# The parts of Qwen3-VL-Thinking's own template that make the turns of a conversation without tools.
THINKING_TURNS = """
{%- set ns = namespace(last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- if message.role == 'user' %}
        {%- set ns.last_query_index = messages|length - 1 - loop.index0 %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = text(message.content) %}
    {%- if message.role != 'assistant' %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
    {%- else %}
        {%- set reasoning_content = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {{- '<|im_start|>assistant\n<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' }}
            {{- content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>assistant\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
"""
THINKING = f"""{CONTENT}{THINKING_TURNS}{{%- if add_generation_prompt %}}
    {{{{- '<|im_start|>assistant\\n<think>\\n' }}}}
{{%- endif %}}"""
# As Qwen3's own templates, which can do both.
HYBRID = f"""{CONTENT}{THINKING_TURNS}{{%- if add_generation_prompt %}}
    {{{{- '<|im_start|>assistant\\n' }}}}
    {{%- if enable_thinking is defined and enable_thinking is false %}}
        {{{{- '<think>\\n\\n</think>\\n\\n' }}}}
    {{%- endif %}}
{{%- endif %}}"""
_PROMPT = """{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if CONDITION %}
        {{- '<think>\\n' }}
    {%- else %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
_TRIMMED = CONTENT + THINKING_TURNS.replace("text(message.content)", "text(message.content)|trim")
# As Qwen3.5's own: texts are trimmed, a prompt always opens a thought, and closes it where thinking is off. Models
# from 4B on think unless told otherwise, smaller ones only if told.
QWEN3_5 = _TRIMMED + _PROMPT.replace("CONDITION", "not (enable_thinking is defined and enable_thinking is false)")
QWEN3_5_SMALL = _TRIMMED + _PROMPT.replace("CONDITION", "enable_thinking is defined and enable_thinking is true")
