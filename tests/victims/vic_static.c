/* SPDX-License-Identifier: MIT */
/* A static program: no dynamic linker to wait for. Exits with 3. */
int main(void)
{
	return 3;
}
