/* SPDX-License-Identifier: Apache-2.0
 *
 * A recursive descent over the text; see expr.h.
 *
 *   compare = sum [(< | <= | > | >= | == | !=) sum]     sum = product {(+ | -) product}
 *   product = power {(* | / | %) power}                 power = sign [^ power]
 *   sign    = - sign | number | name | name ( compare {, compare} ) | ( compare )
 */
#include "plan/expr.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH_MAX = 40, EVALUATING = 1, KNOWN = 2 };

struct parser {
    const char *text, *at;
    struct expr_names *names;
    int depth; /* of parentheses and names, so that the stack is bounded */
    const char *wrong;
    struct err *err;
};

static double fail(struct parser *p, const char *at, const char *fmt, const char *what)
{
    if (!p->wrong)
        err_format(p->err, fmt, what);
    if (!p->wrong)
        p->wrong = at;
    return NAN;
}

static char peek(struct parser *p)
{
    while (*p->at == ' ' || *p->at == '\t' || *p->at == '\n')
        p->at++;
    return *p->at;
}

static bool accept(struct parser *p, const char *word)
{
    (void)peek(p);
    if (strncmp(p->at, word, strlen(word)) != 0)
        return false;
    p->at += strlen(word);
    return true;
}

static double compare(struct parser *p);

/* With an optional K, M, G or T, powers of 1024. */
static double number(struct parser *p)
{
    static const char units[] = "KMGT";
    const char *start = p->at, *unit;
    char *end;
    double v;

    if (p->at[0] == '0' && tolower((unsigned char)p->at[1]) == 'x')
        return fail(p, start, "%s", "a number is decimal");
    v = strtod(p->at, &end);
    p->at = end;
    unit = *p->at ? strchr(units, *p->at) : NULL;
    if (unit) {
        v = ldexp(v, 10 * (int)(unit - units + 1));
        p->at++;
    }
    if (isalnum((unsigned char)*p->at) || *p->at == '_' || *p->at == '.')
        return fail(p, p->at, "%s", "a number is followed by an operator");
    return v;
}

static double call(struct parser *p, const char *at, const char *name)
{
    double a = compare(p), b;
    bool two = strcmp(name, "min") == 0 || strcmp(name, "max") == 0;

    while (two && accept(p, ",")) {
        b = compare(p);
        a = name[1] == 'i' ? fmin(a, b) : fmax(a, b);
    }
    if (!accept(p, ")"))
        return fail(p, p->at, "%s", "here a \")\" is missing");
    if (two)
        return a;
    if (strcmp(name, "ceil") == 0)
        return ceil(a);
    if (strcmp(name, "floor") == 0)
        return floor(a);
    if (strcmp(name, "round") == 0)
        return round(a);
    if (strcmp(name, "sqrt") == 0)
        return sqrt(a);
    if (strcmp(name, "log2") == 0)
        return log2(a);
    return fail(p, at, "there is no function \"%s\" (ceil floor round sqrt log2 min max)", name);
}

/* What the name stands for; its expression is evaluated once. */
static double value_of(struct parser *p, const char *at, const char *name)
{
    struct expr_name *n = NULL;
    const char *text = p->text, *resume = p->at;

    for (size_t i = 0; i < p->names->count; i++)
        if (strcmp(p->names->names[i].name, name) == 0)
            n = &p->names->names[i];
    if (!n)
        return fail(p, at, "there is no \"%s\" here", name);
    if (!n->text || n->state == KNOWN)
        return n->value;
    if (n->state == EVALUATING)
        return fail(p, at, "\"%s\" needs itself", name);
    n->state = EVALUATING;
    p->text = p->at = n->text;
    n->value = compare(p);
    if (!p->wrong && peek(p))
        (void)fail(p, p->at, "%s", "here an operator is missing");
    if (!p->wrong && !isfinite(n->value))
        (void)fail(p, n->text, "%s", "this has no finite value");
    if (p->wrong && !p->names->wrong_name) {
        p->names->wrong_name = n->name;
        p->names->wrong_column = (size_t)(p->wrong - n->text);
    }
    if (p->wrong)
        p->wrong = at; /* the place in the text that was asked about */
    n->state = KNOWN;
    p->text = text;
    p->at = resume;
    return n->value;
}

static double name_or_call(struct parser *p)
{
    const char *start = p->at;
    char name[EXPR_NAME_MAX] = "";
    size_t len = 0;

    while (isalnum((unsigned char)start[len]) || start[len] == '_')
        len++;
    if (len >= sizeof name)
        return fail(p, start, "%s", "that name is too long");
    memcpy(name, start, len);
    name[len] = '\0';
    p->at += len;
    return accept(p, "(") ? call(p, start, name) : value_of(p, start, name);
}

static double operand(struct parser *p)
{
    double v;
    char c = peek(p);

    if (isdigit((unsigned char)c) || c == '.')
        return number(p);
    if (isalpha((unsigned char)c) || c == '_')
        return name_or_call(p);
    if (accept(p, "(")) {
        v = compare(p);
        return accept(p, ")") ? v : fail(p, p->at, "%s", "here a \")\" is missing");
    }
    return fail(p, p->at, "%s", "here a number, a name or a \"(\" is missing");
}

static double sign(struct parser *p)
{
    double v;

    if (p->wrong)
        return NAN;
    if (++p->depth > DEPTH_MAX)
        return fail(p, p->at, "%s", "this is nested too deeply");
    v = accept(p, "-") ? -sign(p) : operand(p);
    if (accept(p, "^"))
        v = pow(v, sign(p));
    p->depth--;
    return v;
}

static double product(struct parser *p)
{
    double v = sign(p);

    for (;;) {
        if (accept(p, "*"))
            v *= sign(p);
        else if (accept(p, "/"))
            v /= sign(p);
        else if (accept(p, "%"))
            v = fmod(v, sign(p));
        else
            return v;
    }
}

static double sum(struct parser *p)
{
    double v = product(p);

    for (;;) {
        if (accept(p, "+"))
            v += product(p);
        else if (accept(p, "-"))
            v -= product(p);
        else
            return v;
    }
}

static double compare(struct parser *p)
{
    double a = sum(p);

    if (accept(p, "<="))
        return a <= sum(p);
    if (accept(p, ">="))
        return a >= sum(p);
    if (accept(p, "=="))
        return a == sum(p);
    if (accept(p, "!="))
        return a != sum(p);
    if (accept(p, "<"))
        return a < sum(p);
    if (accept(p, ">"))
        return a > sum(p);
    return a;
}

int expr_eval(const char *text, struct expr_names *names, double *ret_value, size_t *ret_column,
              struct err *ret_err)
{
    struct parser p = {.text = text, .at = text, .names = names, .err = ret_err};
    double v;

    names->wrong_name = NULL;
    for (size_t i = 0; i < names->count; i++)
        names->names[i].state = 0;
    if (strlen(text) > EXPR_BYTES_MAX) {
        v = fail(&p, text, "%s", "this is too long");
    } else {
        v = compare(&p);
        if (!p.wrong && peek(&p))
            (void)fail(&p, p.at, "%s", "here an operator is missing");
        if (!p.wrong && !isfinite(v))
            (void)fail(&p, text, "%s", "this has no finite value");
    }
    if (p.wrong) {
        if (ret_column)
            *ret_column = (size_t)(p.wrong - text);
        return -EINVAL;
    }
    *ret_value = v;
    return 0;
}
