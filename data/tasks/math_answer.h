/* math_answer.h: answers in LaTeX: where they stand, and which are the same.   all local
 *
 * Two normal forms are in use for the MATH problems, and an answer is right where either of them
 * makes it equal to the reference: that of the benchmark (Hendrycks et al., arXiv:2103.03874) and
 * that of Minerva (Lewkowycz et al., arXiv:2206.14858, appendix D). Both are textual: sqrt{8} and
 * 2sqrt{2} differ. Checked against the released functions: tests/golden/compare_tasks.py.
 */
#ifndef RF_DATA_TASKS_MATH_ANSWER_H
#define RF_DATA_TASKS_MATH_ANSWER_H

#include <stdbool.h>

/* The answer of a solution: what stands in the last \boxed{...} or \fbox{...} whose braces are
 * balanced ("\boxed 5" too); else what stands behind the last "answer is", up to ". " or the end of
 * the line. Caller frees; NULL: neither is there. */
char *rf_math_find(const char *solution);

/* The normal forms. Caller frees. rf_math_normal_hendrycks: NULL where the text is malformed, as
 * "\frac" at its end is; then texts are compared as they are. */
char *rf_math_normal_hendrycks(const char *answer);
char *rf_math_normal_minerva(const char *answer);

/* Equal in one of the normal forms? */
bool rf_math_same(const char *a, const char *b);

#endif
