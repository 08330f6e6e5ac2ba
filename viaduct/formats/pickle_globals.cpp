// Which names a pickle may hold.
#include <string>
#include <unordered_set>

#include "viaduct/formats/pickle.h"

namespace viaduct::formats {

namespace {

const std::unordered_set<std::string>& allowed_names() {
  static const std::unordered_set<std::string> kNames{"collections.OrderedDict",
                                                      "collections.Counter",
                                                      "collections.defaultdict",
                                                      "collections.deque",
                                                      "torch._utils._rebuild_tensor",
                                                      "torch._utils._rebuild_tensor_v2",
                                                      "torch._utils._rebuild_tensor_v3",
                                                      "torch._utils._rebuild_parameter",
                                                      "torch._utils._rebuild_parameter_with_state",
                                                      "torch._utils._rebuild_qtensor",
                                                      "torch._utils._rebuild_sparse_tensor",
                                                      "torch._utils._rebuild_meta_tensor_no_storage",
                                                      "torch._tensor._rebuild_from_type_v2",
                                                      "torch.nn.parameter.Parameter",
                                                      "torch.serialization._get_layout",
                                                      "torch.Size",
                                                      "torch.device",
                                                      "torch.Tensor",
                                                      "torch.Generator",
                                                      "torch.DoubleStorage",
                                                      "torch.FloatStorage",
                                                      "torch.HalfStorage",
                                                      "torch.BFloat16Storage",
                                                      "torch.LongStorage",
                                                      "torch.IntStorage",
                                                      "torch.ShortStorage",
                                                      "torch.CharStorage",
                                                      "torch.ByteStorage",
                                                      "torch.BoolStorage",
                                                      "torch.ComplexDoubleStorage",
                                                      "torch.ComplexFloatStorage",
                                                      "torch.QUInt8Storage",
                                                      "torch.QInt8Storage",
                                                      "torch.QInt32Storage",
                                                      "torch.QUInt4x2Storage",
                                                      "torch.QUInt2x4Storage",
                                                      "torch.storage.UntypedStorage",
                                                      "torch.storage.TypedStorage",
                                                      "torch.storage._LegacyStorage",
                                                      "torch.float64",
                                                      "torch.float32",
                                                      "torch.float16",
                                                      "torch.bfloat16",
                                                      "torch.int64",
                                                      "torch.int32",
                                                      "torch.int16",
                                                      "torch.int8",
                                                      "torch.uint8",
                                                      "torch.uint16",
                                                      "torch.uint32",
                                                      "torch.uint64",
                                                      "torch.bool",
                                                      "torch.complex32",
                                                      "torch.complex64",
                                                      "torch.complex128",
                                                      "torch.quint8",
                                                      "torch.qint8",
                                                      "torch.qint32",
                                                      "torch.quint4x2",
                                                      "torch.quint2x4",
                                                      "torch.float8_e4m3fn",
                                                      "torch.float8_e5m2",
                                                      "torch.float8_e4m3fnuz",
                                                      "torch.float8_e5m2fnuz",
                                                      "torch.float8_e8m0fnu",
                                                      "torch.float4_e2m1fn_x2",
                                                      "torch.bits8",
                                                      "torch.bits16",
                                                      "torch.bits1x8",
                                                      "torch.bits2x4",
                                                      "torch.bits4x2",
                                                      "torch.per_tensor_affine",
                                                      "torch.per_channel_affine",
                                                      "builtins.set",
                                                      "builtins.frozenset",
                                                      "builtins.complex",
                                                      "builtins.bytearray",
                                                      "builtins.bytes",
                                                      "builtins.list",
                                                      "builtins.dict",
                                                      "builtins.tuple",
                                                      "builtins.int",
                                                      "builtins.float",
                                                      "builtins.bool",
                                                      "builtins.str",
                                                      "builtins.slice",
                                                      "builtins.range",
                                                      "builtins.object",
                                                      "__builtin__.set",
                                                      "__builtin__.frozenset",
                                                      "__builtin__.complex",
                                                      "__builtin__.bytearray",
                                                      "__builtin__.list",
                                                      "__builtin__.dict",
                                                      "__builtin__.tuple",
                                                      "__builtin__.int",
                                                      "__builtin__.long",
                                                      "__builtin__.float",
                                                      "__builtin__.bool",
                                                      "__builtin__.str",
                                                      "__builtin__.unicode",
                                                      "__builtin__.slice",
                                                      "__builtin__.object",
                                                      "copy_reg._reconstructor",
                                                      "copyreg._reconstructor",
                                                      "_codecs.encode",
                                                      "numpy.core.multiarray._reconstruct",
                                                      "numpy._core.multiarray._reconstruct",
                                                      "numpy.core.multiarray.scalar",
                                                      "numpy._core.multiarray.scalar",
                                                      "numpy.ndarray",
                                                      "numpy.dtype",
                                                      "numpy.dtypes.UInt32DType",
                                                      "argparse.Namespace",
                                                      "types.SimpleNamespace",
                                                      "pathlib.PosixPath",
                                                      "pathlib.Path",
                                                      "pathlib.PurePosixPath",
                                                      "pathlib._local.PosixPath",
                                                      "io.BytesIO",
                                                      "_io.BytesIO",
                                                      "signal.Signals",
                                                      "datetime.timedelta"};
  return kNames;
}

const std::unordered_set<std::string_view>& dangerous_modules() {
  static const std::unordered_set<std::string_view> kModules{
      "os",        "posix",     "nt",        "subprocess",
      "sys",       "shutil",    "importlib", "runpy",
      "socket",    "pty",       "commands",  "code",
      "codeop",    "ctypes",    "_ctypes",   "webbrowser",
      "pickle",    "_pickle",   "marshal",   "multiprocessing",
      "asyncio",   "urllib",    "requests",  "http",
      "pip",       "pdb",       "bdb",       "timeit",
      "imp",       "platform",  "popen2",    "_posixsubprocess",
      "operator",  "_operator", "idlelib",   "profile",
      "cProfile",  "trace",     "doctest",   "zipimport",
      "posixpath", "ntpath"};
  return kModules;
}

const std::unordered_set<std::string_view>& dangerous_builtins() {
  static const std::unordered_set<std::string_view> kNames{
      "eval",       "exec",  "execfile", "compile", "__import__", "open", "input",
      "breakpoint", "apply", "globals",  "setattr", "delattr",    "vars", "locals"};
  return kNames;
}

}  // namespace

bool is_allowed_global(std::string_view module, std::string_view name) {
  std::string dotted(module);
  dotted += '.';
  dotted += name;
  return allowed_names().contains(dotted);
}

bool is_dangerous_global(std::string_view module, std::string_view name) {
  const std::string_view top = module.substr(0, module.find('.'));
  if (dangerous_modules().contains(top)) return true;
  const std::string_view first = name.substr(0, name.find('.'));
  return (top == "builtins" || top == "__builtin__") && dangerous_builtins().contains(first);
}

}  // namespace viaduct::formats
