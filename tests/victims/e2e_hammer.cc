// SPDX-License-Identifier: MIT
/*
 * Threads that throw through a probed function now and then, and catch it. The
 * commands are those of e2e_hammer.c.
 */
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

using namespace std::chrono_literals;

static std::atomic<int> paused, standing;

struct dropped {
	uint64_t &n;
	~dropped() { n++; }
};

extern "C" __attribute__((noinline, noipa)) uint64_t hammered(uint64_t x, uint64_t *drops)
{
	dropped d{*drops};

	if (x % 5000 == 4999)
		throw x;
	return x * 2654435761u + 12345;
}

static void hammer(std::atomic<uint64_t> *calls)
{
	uint64_t drops = 0;

	for (uint64_t i = 0;; i++) {
		try {
			if (hammered(i, &drops) != i * 2654435761u + 12345 || i % 5000 == 4999)
				abort();
		} catch (uint64_t caught) {
			if (caught != i || i % 5000 != 4999)
				abort();
		}
		if (drops != i + 1)
			abort();
		calls->store(i + 1);
		if (paused) {
			standing++;
			while (paused)
				std::this_thread::sleep_for(500us);
			standing--;
		}
	}
}

static void wait_standing(int n)
{
	while (standing != n)
		std::this_thread::sleep_for(100us);
}

int main(int argc, char **argv)
{
	int n = argc > 1 ? atoi(argv[1]) : 4;
	std::vector<std::atomic<uint64_t>> counters(n);
	std::string line;

	for (auto &c : counters)
		std::thread(hammer, &c).detach();
	std::cout << "ready" << std::endl;
	while (std::getline(std::cin, line)) {
		uint64_t sum = 0;

		if (line == "pause") {
			paused = 1;
			wait_standing(n);
			std::cout << "paused" << std::endl;
		} else if (line == "go") {
			paused = 0;
			wait_standing(0);
			std::cout << "going" << std::endl;
		} else {
			for (auto &c : counters)
				sum += c.load();
			std::cout << sum << std::endl;
		}
	}
	_Exit(0);
}
