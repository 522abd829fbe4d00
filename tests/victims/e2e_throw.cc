/* SPDX-License-Identifier: MIT */
/*
 * Exceptions through many frames: each round of "throw N" throws from D calls
 * deep, through destructors, rethrows and a catch in the middle; the reply is a
 * sum that is wrong when a frame, a destructor or an exception was lost.
 */
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace {
uint64_t destroyed;

struct Guard {
	uint64_t weight;
	explicit Guard(uint64_t w) : weight(w) {}
	~Guard() { destroyed += weight; }
};
} // namespace

__attribute__((noinline)) uint64_t descend(unsigned depth, uint64_t seed)
{
	Guard g(depth + seed % 7);

	if (!depth)
		throw std::runtime_error("bottom " + std::to_string(seed));
	if (depth % 16 == 5) {
		try {
			return descend(depth - 1, seed) + 1;
		} catch (const std::logic_error &) {
			abort();
		} catch (...) {
			destroyed += 1000;
			throw;
		}
	}
	if (depth % 16 == 11) {
		try {
			return descend(depth - 1, seed) + 1;
		} catch (const std::runtime_error &e) {
			throw std::runtime_error(e.what());
		}
	}
	return descend(depth - 1, seed * 31 + 1) + depth;
}

__attribute__((noinline)) uint64_t one_round(uint64_t i)
{
	try {
		return descend(40 + i % 50, i);
	} catch (const std::exception &e) {
		return strlen(e.what()) + i;
	}
}

int main()
{
	char line[256];

	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		uint64_t n = strtoull(line, nullptr, 10), sum = 0;

		destroyed = 0;
		for (uint64_t i = 0; i < n; i++)
			sum = sum * 1000003 + one_round(i);
		printf("%llu %llu\n", (unsigned long long)sum, (unsigned long long)destroyed);
		fflush(stdout);
	}
	return 0;
}
