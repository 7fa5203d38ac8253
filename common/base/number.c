#include "common/base/number.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* --- Reading ---------------------------------------------------------------------------------- */

/* A decimal number taken apart: sign, digits without the point, power of ten. */
typedef struct decimal {
    bool is_negative;
    char digits[64]; /* no zeros in front; "" is zero */
    int n_digits;
    int64_t exponent; /* value = digits * 10^exponent */
    const char *rest; /* behind the number */
} decimal;

/* [+-] digits [. digits] [e [+-] digits]. More than 60 digits that count are refused: no setting
 * means them. */
static bool read_decimal(decimal *out, const char *text)
{
    memset(out, 0, sizeof *out);
    out->is_negative = *text == '-';
    text += *text == '-' || *text == '+';
    bool has_digit = false, has_point = false;
    for (; (*text >= '0' && *text <= '9') || (*text == '.' && !has_point); text++) {
        if (*text == '.') {
            has_point = true;
            continue;
        }
        has_digit = true;
        out->exponent -= has_point;
        if (out->n_digits > 0 || *text != '0') {
            if (out->n_digits >= 60) {
                return false;
            }
            out->digits[out->n_digits++] = *text;
        }
    }
    if (has_digit && (*text == 'e' || *text == 'E')) {
        errno = 0;
        char *end;
        const char *first = text + 1 + (text[1] == '-' || text[1] == '+');
        if (*first < '0' || *first > '9') {
            return false;
        }
        long exponent = strtol(text + 1, &end, 10);
        if (errno != 0 || exponent > 100000 || exponent < -100000) {
            return false;
        }
        out->exponent += exponent;
        text = end;
    }
    out->rest = text;
    return has_digit;
}

bool rf_number_integer(int64_t *out, const char *text)
{
    decimal number;
    if (!read_decimal(&number, text)) {
        return false;
    }
    const char *suffix = strchr("KMG", number.rest[0]);
    if (number.rest[0] != '\0') {
        if (suffix == NULL || number.rest[1] != '\0') {
            return false;
        }
        number.exponent += *suffix == 'K' ? 3 : *suffix == 'M' ? 6 : 9;
    }
    while (number.n_digits > 0 && number.exponent < 0 &&
           number.digits[number.n_digits - 1] == '0') {
        number.n_digits--;
        number.exponent++;
    }
    if (number.n_digits == 0) {
        *out = 0;
        return true;
    }
    if (number.exponent < 0 || number.exponent > 18) {
        return false;
    }
    uint64_t limit = (uint64_t)INT64_MAX + number.is_negative;
    uint64_t magnitude = 0;
    for (int64_t i = 0; i < number.n_digits + number.exponent; i++) {
        uint64_t digit = i < number.n_digits ? (uint64_t)(number.digits[i] - '0') : 0;
        if (magnitude > (limit - digit) / 10) {
            return false;
        }
        magnitude = 10 * magnitude + digit;
    }
    *out = number.is_negative ? (int64_t)(0 - magnitude) : (int64_t)magnitude;
    return true;
}

/* The grammar is checked first: strtod alone takes more. */
bool rf_number_real(double *out, const char *text)
{
    decimal number;
    if (!read_decimal(&number, text) || *number.rest != '\0') {
        return false;
    }
    char *end;
    const double value = strtod(text, &end);
    const bool is_zero = !(value < 0.0 || value > 0.0);
    if (*end != '\0' || !isfinite(value) || (is_zero && number.n_digits > 0)) {
        return false;
    }
    *out = value;
    return true;
}

bool rf_number_bytes(int64_t *out, const char *text)
{
    static const char units[] = "kmgt";
    decimal number;
    if (!read_decimal(&number, text)) {
        return false;
    }
    const char *rest = number.rest + strspn(number.rest, " ");
    const char *unit = *rest != '\0' ? strchr(units, tolower((unsigned char)*rest)) : NULL;
    double scale = 1;
    if (unit != NULL) {
        const bool is_binary = tolower((unsigned char)rest[1]) == 'i';
        scale = pow(is_binary ? 1024 : 1000, (double)(unit - units + 1));
        rest += 1 + is_binary;
    }
    if (strcmp(rest, "") != 0 && strcasecmp(rest, "b") != 0) {
        return false;
    }
    const double bytes = floor(strtod(text, NULL) * scale);
    if (!(bytes >= 0 && bytes <= 1e18)) {
        return false;
    }
    *out = (int64_t)bytes;
    return true;
}

/* --- Printing --------------------------------------------------------------------------------- */

int rf_number_digits(double value)
{
    char text[RF_NUMBER_BYTES];
    int digits = 1;
    for (; digits < 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        const double again = strtod(text, NULL);
        if (!(again < value || again > value)) {
            break;
        }
    }
    return digits;
}

void rf_number_print_real(char out[RF_NUMBER_BYTES], double value)
{
    enum { PLAIN_DIGITS = 7 }; /* up to 9999999 without a power of ten */
    const int digits = rf_number_digits(value);
    snprintf(out, RF_NUMBER_BYTES, "%.*g", digits > PLAIN_DIGITS ? digits : PLAIN_DIGITS, value);
    char *power = strchr(out, 'e'); /* "e+08", "e-06": without what says nothing */
    if (power != NULL) {
        char *digit = power + 2 + strspn(power + 2, "0");
        power += power[1] == '-' ? 2 : 1;
        memmove(power, digit, strlen(digit) + 1);
    }
}

void rf_number_print_duration(char out[RF_NUMBER_BYTES], double seconds)
{
    const int64_t s = seconds < 3.6e8 ? (int64_t)(seconds + 0.5) : (int64_t)3.6e8;
    snprintf(out, RF_NUMBER_BYTES, "%" PRId64 ":%02d:%02d", s / 3600, (int)(s / 60 % 60),
             (int)(s % 60));
}
