# SPDX-License-Identifier: MIT
# Each line of a text as a C string literal, for #include.
s/\\/&&/g
s/"/\\"/g
s/^/"/
s/$/\\n"/
