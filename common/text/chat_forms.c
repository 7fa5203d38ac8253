#include "common/text/chat.h"

#include <string.h>

/* Forms with a name, spelled anew: they print what the templates of these models print. Variables
 * beside those of Transformers: default_system, the system message of a conversation without one. */

static const char chatml[] =
    "{% if default_system and messages[0].role != 'system' %}"
    "{{ '<|im_start|>system\\n' + default_system + '<|im_end|>\\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/* Qwen2.5 and Qwen3 differ in the blank line in front of the tools, in arguments that are a string,
 * and in thoughts. */
#define QWEN_TOOLS                                                                                 \
    "{% macro describe() %}{{ '# Tools\\n\\nYou may call one or more functions to assist "         \
    "with the user query.\\n\\nYou are provided with function signatures within <tools></tools> "  \
    "XML tags:\\n<tools>' }}{% for t in tools %}{{ '\\n' ~ t | tojson }}{% endfor %}"              \
    "{{ '\\n</tools>\\n\\nFor each function call, return a json object with function name and "    \
    "arguments within <tool_call></tool_call> XML tags:\\n<tool_call>\\n{\"name\": "               \
    "<function-name>, \"arguments\": <args-json-object>}\\n</tool_call>' }}{% endmacro %}"
/* From the first message on to those of tools; the other messages follow. */
#define QWEN_RESULTS                                                                               \
    "{% for m in messages %}{% set content = m.content or '' %}{% if m.role == 'tool' %}"          \
    "{{ '<|im_start|>user' if loop.first or messages[loop.index0 - 1].role != 'tool' }}"           \
    "{{ '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}"                            \
    "{{ '<|im_end|>\\n' if loop.last or messages[loop.index0 + 1].role != 'tool' }}"
#define QWEN_CALLS(arguments)                                                                      \
    "{% for c in m.tool_calls or [] %}{% set f = c.function or c %}"                               \
    "{{ '\\n' if not loop.first or content }}"                                                     \
    "{{ '<tool_call>\\n{\"name\": \"' + f.name + '\", \"arguments\": ' }}" arguments               \
    "{{ '}\\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\\n' }}"
#define QWEN_PROMPT                                                                                \
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"

#define QWEN2_SYSTEM                                                                               \
    "{% set system = messages[0].content if messages[0].role == 'system' else "                    \
    "default_system or '' %}{% if tools %}"                                                        \
    "{{ '<|im_start|>system\\n' + system + '\\n\\n' + describe() + '<|im_end|>\\n' }}"             \
    "{% elif messages[0].role == 'system' or default_system %}"                                    \
    "{{ '<|im_start|>system\\n' + system + '<|im_end|>\\n' }}{% endif %}"
#define QWEN2_MESSAGE                                                                              \
    "{% elif not (loop.first and m.role == 'system') %}"                                           \
    "{{ '<|im_start|>' + m.role + '\\n' + content }}" QWEN_CALLS("{{ f.arguments | tojson }}")
static const char qwen2[] =
    QWEN_TOOLS QWEN2_SYSTEM QWEN_RESULTS QWEN2_MESSAGE QWEN_PROMPT "{% endif %}";

#define QWEN3_SYSTEM                                                                               \
    "{% if tools %}{{ '<|im_start|>system\\n' + (messages[0].content + '\\n\\n' if "               \
    "messages[0].role == 'system' else '') + describe() + '<|im_end|>\\n' }}"                      \
    "{% elif messages[0].role == 'system' %}"                                                      \
    "{{ '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{% endif %}"
/* ns.query: the last question of the user. */
#define QWEN3_QUERY                                                                                \
    "{% set ns = namespace(query=messages | length - 1, found=false) %}"                           \
    "{% for m in messages[::-1] %}{% set content = m.content or '' %}"                             \
    "{% if not ns.found and m.role == 'user' and not (content.startswith('<tool_response>') "      \
    "and content.endswith('</tool_response>')) %}"                                                 \
    "{% set ns.query = messages | length - loop.index %}"                                          \
    "{% set ns.found = true %}{% endif %}{% endfor %}"
#define QWEN3_ANSWER                                                                               \
    "{% elif m.role == 'assistant' %}{% set thought = m.reasoning_content or '' %}"                \
    "{% if not m.reasoning_content is string and '</think>' in content %}{% set thought = "        \
    "content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}"             \
    "{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}"                   \
    "{{ '<|im_start|>assistant\\n' }}"                                                             \
    "{% if loop.index0 > ns.query and (loop.last or thought) %}{{ '<think>\\n' + "                 \
    "thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}"                        \
    "{% else %}{{ content }}{% endif %}" QWEN_CALLS(                                               \
        "{{ f.arguments if f.arguments is string else f.arguments | tojson }}")
#define QWEN3_MESSAGE                                                                              \
    "{% elif not (loop.first and m.role == 'system') %}"                                           \
    "{{ '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' }}"
static const char qwen3[] =
    QWEN_TOOLS QWEN3_SYSTEM QWEN3_QUERY QWEN_RESULTS QWEN3_ANSWER QWEN3_MESSAGE QWEN_PROMPT
    "{% if enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}";

#define LLAMA_HEADER                                                                               \
    "{% macro header(role) %}{{ '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' }}"       \
    "{% endmacro %}{{ '<|begin_of_text|>' }}"
#define LLAMA_END "{% if add_generation_prompt %}{{ header('assistant') }}{% endif %}"

static const char llama3[] =
    LLAMA_HEADER "{% for m in messages %}{{ header(m.role) + m.content | trim + '<|eot_id|>' }}"
                 "{% endfor %}" LLAMA_END;

static const char llama31[] = LLAMA_HEADER
    "{% set has_system = messages[0].role == 'system' %}"
    "{{ header('system') + ('Environment: ipython\\n' if tools else '') + 'Cutting Knowledge Date: "
    "December 2023\\nToday Date: ' + strftime_now('%d %b %Y') + '\\n\\n' + "
    "(messages[0].content | trim if has_system else '') + '<|eot_id|>' }}"
    "{% set rest = messages[1:] if has_system else messages %}"
    "{% if tools %}{% if not rest %}{{ raise_exception('tools go into the first message of the "
    "user, and there is none') }}{% endif %}"
    "{{ header('user') + 'Given the following functions, please respond with a JSON for a function "
    "call with its proper arguments that best answers the given prompt.\\n\\nRespond in the format "
    "{\"name\": function name, \"parameters\": dictionary of argument name and its value}.Do "
    "not use variables.\\n\\n' }}"
    "{% for t in tools %}{{ t | tojson(indent=4) + '\\n\\n' }}{% endfor %}"
    "{{ rest[0].content | trim + '<|eot_id|>' }}{% set rest = rest[1:] %}{% endif %}"
    "{% for m in rest %}{% if m.tool_calls %}{% if m.tool_calls | length != 1 %}"
    "{{ raise_exception('a message has one tool call: give each a message of its own') }}"
    "{% endif %}{% set f = m.tool_calls[0].function or m.tool_calls[0] %}"
    "{{ header('assistant') + '{\"name\": \"' + f.name + '\", \"parameters\": ' + f.arguments | "
    "tojson + '}' }}"
    "{% elif m.role == 'tool' %}{{ header('ipython') + m.content | tojson }}"
    "{% else %}{{ header(m.role) + m.content | trim }}{% endif %}{{ '<|eot_id|>' }}"
    "{% endfor %}" LLAMA_END;

const char *rf_chat_form(const char *name)
{
    static const struct {
        const char *name, *template;
    } forms[] = {{"chatml", chatml},
                 {"qwen2.5", qwen2},
                 {"qwen3", qwen3},
                 {"llama3", llama3},
                 {"llama3.1", llama31}};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        if (strcmp(name, forms[i].name) == 0) {
            return forms[i].template;
        }
    }
    return NULL;
}
