/* Numbers of answers, as lm-evaluation-harness's gsm8k takes them out of a text. */
#include "data/tasks/task_rules.h"

#include "common/base/alloc.h"

#include <ctype.h>
#include <jansson.h>
#include <string.h>

enum { MAX_DIGITS = 64 };

/* Drops the zeros behind a point, and a point with nothing behind it. */
static void trim_fraction(char *number)
{
    if (strchr(number, '.') == NULL) {
        return;
    }
    size_t n = strlen(number);
    while (number[n - 1] == '0') {
        number[--n] = '\0';
    }
    if (number[n - 1] == '.') {
        number[n - 1] = '\0';
    }
}

/* The digits from *text on, without leading zeros, commas between digits and trailing zeros of a
 * fraction: "01,234.50" is "1234.5" and "0.0" is "". Moves *text behind it. false: none is there,
 * or too many. out [MAX_DIGITS] */
static bool read_digits(char *out, const char **text)
{
    const char *p = *text;
    size_t n = 0;
    bool has_digit = false, has_point = false;
    for (; n + 1 < MAX_DIGITS; p++) {
        if (isdigit((unsigned char)*p)) {
            has_digit = true;
            if (n > 0 || *p != '0') {
                out[n++] = *p;
            }
        } else if (*p == '.' && !has_point && isdigit((unsigned char)p[1])) {
            has_point = true;
            out[n++] = '.';
        } else if (*p != ',' || !has_digit || !isdigit((unsigned char)p[1])) {
            break;
        }
    }
    out[n] = '\0';
    trim_fraction(out);
    *text = p;
    return has_digit && n + 1 < MAX_DIGITS;
}

static char *signed_number(bool is_negative, const char *digits)
{
    return digits[0] == '\0' ? rf_alloc_string("0")
                             : rf_alloc_format("%s%s", is_negative ? "-" : "", digits);
}

/* The number behind the first "####": "#### $1,234.50 a day" is 1234.5. NULL: none. */
static char *strict_number(const char *text)
{
    const char *p = strstr(text, "####");
    char digits[MAX_DIGITS];
    bool is_negative = false;
    if (p == NULL) {
        return NULL;
    }
    for (p += 4; *p == ' ' || *p == '\t' || *p == '$' || *p == '-' || *p == '+'; p++) {
        is_negative = is_negative || *p == '-';
    }
    return read_digits(digits, &p) ? signed_number(is_negative, digits) : NULL;
}

/* The last number, wherever it stands: "so it is -$3.50." is -3.5. NULL: none. */
static char *last_number(const char *text)
{
    char digits[MAX_DIGITS], last[MAX_DIGITS] = "";
    bool found = false, is_negative = false;
    for (const char *p = text; *p != '\0';) {
        const char *begin = p;
        if (!isdigit((unsigned char)*p) && !(*p == '.' && isdigit((unsigned char)p[1]))) {
            p++;
            continue;
        }
        if (read_digits(digits, &p)) {
            begin -= begin > text && begin[-1] == '$';
            is_negative = begin > text && begin[-1] == '-';
            memcpy(last, digits, sizeof last);
            found = true;
        } else {
            p += strspn(p, "0123456789");
        }
    }
    return found ? signed_number(is_negative, last) : NULL;
}

/* What is voted with: the number behind "####", else the last one. */
static char *extract(const char *text)
{
    char *number = strict_number(text);
    return number != NULL ? number : last_number(text);
}

static bool check(const char *query, const char *expected, const char *answer)
{
    (void)query;
    return rf_task_same(extract(expected), strict_number(answer));
}

static bool check_flexible(const char *query, const char *expected, const char *answer)
{
    (void)query;
    return rf_task_same(extract(expected), last_number(answer));
}

static int read_record(rf_task_item *out, const json_t *record, bool raw, rf_error *err)
{
    const char *question, *answer;
    RF_TRY(rf_task_field(&question, record, "question", err));
    RF_TRY(rf_task_field(&answer, record, "answer", err));
    if (question != NULL && answer != NULL) {
        out->query =
            raw ? rf_alloc_format("Question: %s\nAnswer:", question) : rf_alloc_string(question);
        out->expected = rf_alloc_string(answer);
    }
    return RF_OK;
}

static const char *const stops[] = {"Question:", NULL};

const rf_task rf_task_gsm8k = {
    .name = "gsm8k",
    .help = "the number behind ####; flexible: the last number",
    .read = read_record,
    .stops = stops,
    .shots = 5,
    .check = check,
    .also = "flexible",
    .check_also = check_flexible,
    .extract = extract,
};
