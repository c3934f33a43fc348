/* fault.cpp - the rules of OCTET_EMULATOR_FAIL. */
#include "emulator/fault.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <mutex>
#include <string>
#include <vector>

#include "emulator/runtime.h"

namespace emulator {

namespace {

struct rule {
    std::string kind, name;
    unsigned long nth;
    long device;            /* -1: any */
    unsigned long calls;    /* so far */
};

[[noreturn]] void refuse(const std::string &text)
{
    fprintf(stderr, "emulator: OCTET_EMULATOR_FAIL: \"%s\": expected KIND[:NAME]:N[@DEVICE]\n",
            text.c_str());
    exit(2);
}

unsigned long number(const std::string &digits, const std::string &text)
{
    if (digits.empty() || digits.size() > 9 ||
        digits.find_first_not_of("0123456789") != std::string::npos)
        refuse(text);
    return strtoul(digits.c_str(), nullptr, 10);
}

rule parse_rule(const std::string &text)
{
    const size_t at = text.find('@');
    const std::string call = text.substr(0, at);
    const size_t first = call.find(':'), last = call.rfind(':');
    rule parsed = {};

    if (first == std::string::npos || first == 0)
        refuse(text);
    parsed.kind = call.substr(0, first);
    if (last != first)
        parsed.name = call.substr(first + 1, last - first - 1);
    parsed.nth = number(call.substr(last + 1), text);
    parsed.device = at == std::string::npos ? -1
                                            : static_cast<long>(number(text.substr(at + 1), text));
    if (parsed.nth == 0)
        refuse(text);
    return parsed;
}

std::vector<rule> parse_rules()
{
    const char *variable = getenv("OCTET_EMULATOR_FAIL");
    const std::string text = variable ? variable : "";
    std::vector<rule> rules;

    for (size_t start = 0; start < text.size();) {
        const size_t comma = text.find(',', start);
        const size_t end = comma == std::string::npos ? text.size() : comma;
        rules.push_back(parse_rule(text.substr(start, end - start)));
        start = end + 1;
    }
    return rules;
}

bool same_name(const std::string &wanted, const char *name)
{
    return wanted.empty() || wanted == std::string(name).substr(0, strcspn(name, "<"));
}

}

bool fault_due(const char *kind, const char *name, int device)
{
    static std::vector<rule> rules = parse_rules();
    static std::mutex mutex;
    const std::lock_guard<std::mutex> lock(mutex);
    bool due = false;

    for (rule &rule : rules) {
        if (rule.kind == kind && same_name(rule.name, name) &&
            (rule.device < 0 || rule.device == device))
            due = ++rule.calls == rule.nth || due;
    }
    return due;
}

}
