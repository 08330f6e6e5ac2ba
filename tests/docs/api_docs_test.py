"""tools/api_docs: finds the planted names that have no comment, and no others; writes a reference that is whole."""
import os
import pathlib
import shutil
import subprocess
import sys

SOURCE = pathlib.Path(os.environ["VIADUCT_SOURCE"])
SCRATCH = pathlib.Path(os.environ["VIADUCT_SCRATCH"])
TOOL = SOURCE / "tools/api_docs"

# A name of a line marked "//!" is to be reported, with that line's number.
HEADER = """// What the file is for.
#pragma once

#include <string>

namespace viaduct {

/// A documented type.
class Documented {
 public:
  enum class Kind { kFirst, kSecond };  // a comment behind it
  Documented() = default;
  Documented(const Documented& other);
  Documented& operator=(const Documented& other);
  ~Documented();
  explicit Documented(int size);  //! Documented::Documented

  /// A comment at the head of a block counts for all of it.
  int first() const;
  int second() const { return size_; }

  /// A comment inside of one ...
  virtual int third() const;
  /// ... only for what stands below it.
  int fourth() const;
  int fifth() const;  //! Documented::fifth

  // No documentation: it is not about the declaration.
  int sixth(const std::string& text =  // a default
            ";{");  // and a comment behind it
  static constexpr int kSize = 3;  //! Documented::kSize
  friend bool operator==(const Documented&, const Documented&) = default;
  int data = 0;

 private:
  struct Hidden {};
  int hidden() const;
  int size_ = 0;
};

struct Derived : Documented {  //! Derived
  int third() const override;
  struct Nested {};  //! Derived::Nested
};

int function();  //! function
int documented(int argument);  // it has one

using Alias = int;  //! Alias
inline constexpr int kConstant = 1;  //! kConstant
extern int variable;  //! variable
enum class Enumeration { kValue };  //! Enumeration
template <class T>
T made() {  //! made
  return T();
}

namespace detail {
int helper();
}  // namespace detail

#define PLANTED_RECORD(type, name) \\
  /* a table's row */              \\
  struct name {                    \\
    type value;                    \\
  }
PLANTED_RECORD(int, Row);  //! Row
#undef PLANTED_RECORD

}  // namespace viaduct

#define PLANTED_MACRO(x) x  //! PLANTED_MACRO
/// A documented macro.
#define PLANTED_OTHER(x) x
#define PLANTED_PART_(x) x
"""


def plant():
    shutil.rmtree(SCRATCH, ignore_errors=True)
    folder = SCRATCH / "planted/viaduct/core"
    folder.mkdir(parents=True)
    lines = HEADER.splitlines()
    marked = [(i + 1, line.split("//!")[1].strip()) for i, line in enumerate(lines) if "//!" in line]
    (folder / "planted.h").write_text("\n".join(line.split("//!")[0].rstrip() for line in lines) + "\n")
    expected = []
    for number, name in marked:
        full = name if name.startswith("PLANTED") else f"viaduct::{name}"
        expected.append(f"viaduct/core/planted.h:{number}: {full} has no /// comment")
    return expected


def main():
    failed = 0
    expected = plant()
    done = subprocess.run([TOOL, "--check", SCRATCH / "planted"], capture_output=True, text=True)
    found = [line for line in done.stderr.splitlines() if "has no" in line]
    for line in sorted(set(expected) ^ set(found)):
        failed += 1
        print("not reported:" if line in expected else "reported:", line)
    if done.returncode != 1 or failed:
        failed += 1
        print(f"exit {done.returncode}\n{done.stdout}{done.stderr}")

    done = subprocess.run([TOOL, SCRATCH / "reference"], capture_output=True, text=True)
    pages = list((SCRATCH / "reference/api").rglob("*.html"))
    main_page = (SCRATCH / "reference/api/index.html").read_text() if pages else ""
    for wanted in ("AutoBridge::from_hf_pretrained", "group__core.html", "group__adapters.html", "Python module"):
        if wanted not in main_page:
            failed += 1
            print(f"the main page does not show {wanted}")
    for page in pages:
        if str(SOURCE) in page.read_text():
            failed += 1
            print(f"{page} names a folder of this machine")
    if done.returncode != 0:
        failed += 1
        print(f"exit {done.returncode}\n{done.stdout}{done.stderr}")
    print(f"{len(expected)} planted names, {len(pages)} pages, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
