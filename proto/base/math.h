/* Our own exp, log, sin, cos, pow in double: the same bits on every machine and library version.
 * Only +, -, *, / and sqrt of IEEE 754 are used (no FMA contraction). Error below 2e-15 relative
 * (exp, log away from 1) and 1e-15 absolute (sin, cos for |x| <= 2^20). Thread: any.
 * The engine's float kernels have their own vectorised exp and log (worker/engine). */
#ifndef JOUST_PROTO_BASE_MATH_H
#define JOUST_PROTO_BASE_MATH_H

double joust_exp(double x);                /* 0 below -745, +inf above 709.78 */
double joust_log(double x);                /* x > 0; -inf at 0, NaN below */
double joust_sin(double x);                /* NaN beyond |x| = 2^30 */
double joust_cos(double x);                /* likewise */
double joust_pow(double x, double y);      /* x > 0: exp(y log x) */
double joust_sigmoid(double x);            /* 1 / (1 + exp(-x)), without overflow */
double joust_log_sigmoid(double x);        /* log(sigmoid(x)), without overflow */
double joust_log_add(double a, double b);  /* log(exp(a) + exp(b)) */

#endif
