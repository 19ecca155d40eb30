"""Moves: renoise a state, propose candidates, decide among them; each kernel says what it leaves invariant.

state (x_t, x_0, r)  ->  state      target  Pi_t(x_t, x_0)  proportional to  p(x_0) q(x_t | x_0) exp(r(x_0) / alpha)
"""
