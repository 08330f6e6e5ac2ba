#include "viaduct/formats/pickle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "scratch_folder.h"
#include "viaduct/core/error.h"
#include "viaduct/formats/pickle_writer.h"
#include "viaduct/formats/torch_file.h"

namespace viaduct::formats {
namespace {

using testing::HasSubstr;
using Kind = PickleNode::Kind;
using namespace std::string_literals;

PickleDocument parse(std::string bytes, PickleOptions::Unknown unknown = PickleOptions::Unknown::kRefuse) {
  PickleOptions options;
  options.origin = "test";
  options.unknown = unknown;
  return PickleDocument::parse(std::move(bytes), options);
}

std::string error_of_pickle(const std::string& bytes,
                            PickleOptions::Unknown unknown = PickleOptions::Unknown::kRefuse) {
  return error_of([&] { parse(bytes, unknown); });
}

std::string from_hex(std::string_view digits) {
  std::string bytes;
  for (size_t i = 0; i < digits.size(); i += 2)
    bytes += static_cast<char>(std::stoi(std::string(digits.substr(i, 2)), nullptr, 16));
  return bytes;
}

// Python's pickle.dumps of {"a": [1, -2, 70000, 2**40, 1.5, True, None], "b": ("x", b"\x00\xff")}.
const std::string kProtocols[] = {
    // protocol 0
    from_hex(
        "286470300a56610a70310a286c70320a49310a61492d320a614937303030300a614c313039393531313632373737364c0a614631"
        "2e350a614930310a614e617356620a70330a2856780a70340a635f636f646563730a656e636f64650a70350a28565c7530303030"
        "ff0a70360a566c6174696e310a70370a7470380a5270390a747031300a732e"),
    // protocol 1
    from_hex(
        "7d71002858010000006171015d7102284b014afeffffff4a701101004c313039393531313632373737364c0a473ff80000000000"
        "004930310a4e655801000000627103285801000000787104635f636f646563730a656e636f64650a710528580300000000c3bf71"
        "0658060000006c6174696e31710774710852710974710a752e"),
    // protocol 2
    from_hex(
        "80027d71002858010000006171015d7102284b014afeffffff4a701101008a06000000000001473ff8000000000000884e655801"
        "0000006271035801000000787104635f636f646563730a656e636f64650a7105580300000000c3bf710658060000006c6174696e"
        "31710786710852710986710a752e"),
    // protocol 3
    from_hex(
        "80037d71002858010000006171015d7102284b014afeffffff4a701101008a06000000000001473ff8000000000000884e655801"
        "0000006271035801000000787104430200ff7105867106752e"),
    // protocol 4
    from_hex(
        "8004953b000000000000007d94288c0161945d94284b014afeffffff4a701101008a06000000000001473ff8000000000000884e"
        "658c0162948c017894430200ff948694752e"),
    // protocol 5
    from_hex(
        "8005953b000000000000007d94288c0161945d94284b014afeffffff4a701101008a06000000000001473ff8000000000000884e"
        "658c0162948c017894430200ff948694752e")};

TEST(Pickle, EveryProtocol) {
  for (const std::string& bytes : kProtocols) {
    const PickleDocument document = parse(bytes);
    EXPECT_EQ(document.bytes_used(), bytes.size());
    const PickleNode root = document.root();
    ASSERT_TRUE(root.is(Kind::kDict));
    ASSERT_EQ(root.size(), 2u);
    const PickleNode* a = root.find("a");
    ASSERT_NE(a, nullptr);
    ASSERT_EQ(a->size(), 7u);
    EXPECT_EQ(a->item(0).integer(), 1);
    EXPECT_EQ(a->item(1).integer(), -2);
    EXPECT_EQ(a->item(2).integer(), 70000);
    EXPECT_EQ(a->item(3).integer(), int64_t{1} << 40);
    EXPECT_EQ(a->item(4).floating(), 1.5);
    EXPECT_TRUE(a->item(5).is(Kind::kBool) && a->item(5).boolean());
    EXPECT_TRUE(a->item(6).is_none());
    const PickleNode* b = root.find("b");
    ASSERT_TRUE(b != nullptr && b->is(Kind::kTuple) && b->size() == 2);
    EXPECT_EQ(b->item(0).text(), "x");
    if (b->item(1).is(Kind::kBytes)) {
      EXPECT_EQ(b->item(1).text(), "\x00\xff"s);
    } else {
      EXPECT_TRUE(b->item(1).is_call_of("_codecs.encode"));
      EXPECT_EQ(b->item(1).arguments().item(0).text(), "\x00\xc3\xbf"s);
    }
  }
}

TEST(Pickle, EveryTruncationIsAnError) {
  for (const std::string& bytes : kProtocols)
    for (size_t size = 0; size < bytes.size(); ++size) {
      const std::string error = error_of_pickle(bytes.substr(0, size));
      EXPECT_THAT(error, HasSubstr("test: ")) << size;
      EXPECT_THAT(error, HasSubstr("byte ")) << size;
    }
}

TEST(Pickle, AnyChangedByteEnds) {
  for (const std::string& bytes : kProtocols)
    for (size_t i = 0; i < bytes.size(); ++i)
      for (int value = 0; value < 256; ++value) {
        std::string changed = bytes;
        changed[i] = static_cast<char>(value);
        error_of_pickle(changed);
      }
}

TEST(Pickle, RefusesWhatRunsCodeByName) {
  for (const auto unknown : {PickleOptions::Unknown::kRefuse, PickleOptions::Unknown::kOpaque}) {
    EXPECT_THAT(error_of_pickle("cos\nsystem\n(S'echo hi'\ntR.", unknown), HasSubstr("os.system"));
    EXPECT_THAT(error_of_pickle("cposix\nsystem\n(S'echo hi'\ntR.", unknown), HasSubstr("(os.system)"));
    EXPECT_THAT(error_of_pickle("\x80\x04\x8c\x0asubprocess\x8c\x05Popen\x93.", unknown),
                HasSubstr("subprocess.Popen"));
    EXPECT_THAT(error_of_pickle("(S'1'\ni__builtin__\neval\n.", unknown), HasSubstr("__builtin__.eval"));
    EXPECT_THAT(error_of_pickle("cimportlib.util\nfind_spec\n.", unknown), HasSubstr("importlib.util.find_spec"));
  }
}

TEST(Pickle, UnknownClassesAreRefusedOrKeptByName) {
  const std::string bytes = "\x80\x02"s + "csome.module\nThing\n)\x81}X\x01\x00\x00\x00xK\x05sb."s;
  EXPECT_THAT(error_of_pickle(bytes), HasSubstr("some.module.Thing"));
  const PickleDocument document = parse(bytes, PickleOptions::Unknown::kOpaque);
  ASSERT_TRUE(document.root().is_call_of("some.module.Thing"));
  EXPECT_EQ(document.root().state().find("x")->integer(), 5);
}

TEST(Pickle, CyclesAreKeptAsTheyAre) {
  const PickleDocument document = parse("\x80\x02]q\x00h\x00"s + "a."s);
  ASSERT_EQ(document.root().size(), 1u);
  EXPECT_EQ(document.root().item(0).identity(), document.root().identity());
}

TEST(Pickle, EmptyTexts) {
  for (const std::string& bytes : {"S''\n."s, "V\n."s, "U\0."s}) EXPECT_EQ(parse(bytes).root().text(), "");
}

TEST(Pickle, TextArgumentsOfProtocol0) {
  EXPECT_EQ(parse("V\\u0041\\U0001f600\xe9\n.").root().text(), "A😀é");
  EXPECT_EQ(parse("S'a\\n\\x41\\''\n.").root().text(), "a\nA'");
  EXPECT_TRUE(parse("S'\\xff'\n.").root().is(Kind::kBytes));
  EXPECT_EQ(parse("F-inf\n.").root().floating(), -std::numeric_limits<double>::infinity());
  EXPECT_EQ(parse("F1e-05\n.").root().floating(), 1e-5);
  EXPECT_EQ(parse("L-9223372036854775808L\n.").root().integer(), std::numeric_limits<int64_t>::min());
  for (const char* pickle :
       {"V\\ud800\n.", "V\\u12\n.", "V\\U00110000\n.", "S'\\q'\n.", "S'\\x4'\n.", "S'\n.", "Sx\n.", "I\n.",
        "I1x\n.", "L99999999999999999999L\n.", "F\n.", "F1.5.\n.", "Np-1\n.", "Np\n."})
    EXPECT_THAT(error_of_pickle(pickle), HasSubstr("test: ")) << pickle;
}

TEST(Pickle, MisusedOpcodesAreErrors) {
  EXPECT_THAT(error_of_pickle("."), HasSubstr("STOP"));
  EXPECT_THAT(error_of_pickle("a."), HasSubstr("append"));
  EXPECT_THAT(error_of_pickle("t."), HasSubstr("MARK"));
  EXPECT_THAT(error_of_pickle("(a."), HasSubstr("append"));
  EXPECT_THAT(error_of_pickle("](u."), HasSubstr("dict"));
  EXPECT_THAT(error_of_pickle("}(K\x01u."), HasSubstr("key without value"));
  EXPECT_THAT(error_of_pickle("h\x05."), HasSubstr("memo entry 5"));
  EXPECT_THAT(error_of_pickle("K\x01K\x02R."), HasSubstr("not a class or function"));
  EXPECT_THAT(error_of_pickle("NNb."), HasSubstr("BUILD"));
  EXPECT_THAT(error_of_pickle("\x80\x07N."), HasSubstr("protocol 7"));
  EXPECT_THAT(error_of_pickle("\x82\x01."), HasSubstr("extensions"));
  EXPECT_THAT(error_of_pickle("\x97."), HasSubstr("buffers"));
  EXPECT_THAT(error_of_pickle("\xff."), HasSubstr("0xff"));
  EXPECT_THAT(error_of_pickle("X\xff\xff\xff\x7f."s), HasSubstr("truncated"));
  EXPECT_THAT(error_of_pickle("\x8d\xff\xff\xff\xff\xff\xff\xff\xff."s), HasSubstr("truncated"));
  EXPECT_THAT(error_of_pickle("\x95\xff\xff\xff\xff\xff\xff\xff\x7fN."s), HasSubstr("FRAME"));
  EXPECT_THAT(error_of_pickle("X\x01\x00\x00\x00\xff."s), HasSubstr("UTF-8"));
}

// Small inputs that ask for much: each is refused within the bound, or read with little memory.
TEST(Pickle, AbsurdSizesStayInBounds) {
  // A memo index of 4 billion must not make 4 billion entries.
  const PickleDocument far = parse("Nr\xff\xff\xff\xff"s + "0j\xff\xff\xff\xff."s);
  EXPECT_TRUE(far.root().is_none());
  // Many containers.
  PickleOptions options;
  options.origin = "test";
  options.max_memory = 4u << 20;
  for (const char* op : {"]", "}", "(", "N", "\x8f", "]q\x01", "]\x94", "]2", "((l"}) {
    std::string bytes;
    while (bytes.size() < (2u << 20)) bytes += op;
    EXPECT_THAT(error_of([&] { PickleDocument::parse(bytes + ".", options); }),
                testing::AnyOf("", HasSubstr("memory")))
        << op;
  }
  EXPECT_THAT(error_of([&] { PickleDocument::parse(std::string(2u << 20, ']') + ".", options); }),
              HasSubstr("memory"));
}

// ---------------------------------------------------------------- the writer

TEST(PickleWriter, ReadsBack) {
  for (const int protocol : {2, 4}) {
    const PickleValue value = PickleValue::dict(
        {{"ints", PickleValue::list({0, 255, 256, 65535, 65536, -1, int64_t{1} << 31, -(int64_t{1} << 31),
                                     std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max()})},
         {"tuple", PickleValue::tuple({1, 2, 3, 4})},
         {"empty", PickleValue::tuple()},
         {"float", -0.5},
         {"flags", PickleValue::tuple({true, false})},
         {"text", std::string(300, 'x')},
         {"nothing", nullptr},
         {"type", PickleValue::global("torch.bfloat16")}});
    const std::string bytes = write_pickle(value, protocol);
    const PickleDocument document = parse(bytes);
    EXPECT_EQ(document.bytes_used(), bytes.size());
    const PickleNode root = document.root();
    const PickleNode* ints = root.find("ints");
    ASSERT_NE(ints, nullptr);
    for (size_t i = 0; i < ints->size(); ++i)
      EXPECT_EQ(ints->item(i).integer(), value.at("ints").items()[i].as_int());
    EXPECT_EQ(root.find("tuple")->size(), 4u);
    EXPECT_EQ(root.find("empty")->size(), 0u);
    EXPECT_EQ(root.find("float")->floating(), -0.5);
    EXPECT_EQ(root.find("text")->text(), std::string(300, 'x'));
    EXPECT_EQ(root.find("type")->text(), "torch.bfloat16");
  }
}

TEST(PickleWriter, PythonsBytes) {
  // pickle.dumps({"a": 1, "b": [1.5, "a"], "c": ()}, protocol=2)
  EXPECT_EQ(
      write_pickle(PickleValue::dict({{"a", 1}, {"b", PickleValue::list({1.5, "a"})}, {"c", PickleValue::tuple()}}),
                   2),
      from_hex("80027d71002858010000006171014b0158010000006271025d710328473ff80000000000006801655801000000637104297"
               "52e"));
}

}  // namespace
}  // namespace viaduct::formats
