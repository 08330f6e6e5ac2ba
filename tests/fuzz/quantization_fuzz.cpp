// What config.json says of quantisation, with a list of tensors in the form that it names: a document
// {"config": {...}, "second": {...}, "tensors": [[name, dtype, [sizes]], ...]} must end in logical tensors or a
// UserError.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "viaduct/bridge/quantized_source.h"
#include "viaduct/core/error.h"

namespace {

void read(const viaduct::Json& json) {
  using viaduct::Json;
  const Json* config = json.find("config");
  if (!config) return;
  const auto quantization = viaduct::bridge::read_quantization(*config, json.find("second"), "input");
  std::vector<viaduct::bridge::NamedTensor> tensors;
  if (const Json* listed = json.find("tensors")) {
    for (const Json& each : listed->items()) {
      VIADUCT_USER_CHECK(each.items().size() == 3, "{}", each.items().size());
      const auto dtype = viaduct::dtype_from_name(each.items()[1].as_string());
      VIADUCT_USER_CHECK(dtype, "no dtype");
      viaduct::Shape shape;
      for (const Json& size : each.items()[2].items()) {
        VIADUCT_USER_CHECK(shape.rank() < viaduct::Shape::kMaxRank && size.as_int() >= 0, "no shape");
        shape.push_back(size.as_int());
      }
      viaduct::num_elements(shape);  // as every reader does
      tensors.push_back({each.items()[0].as_string(), *dtype, shape});
    }
  }
  const auto logical = viaduct::bridge::logical_tensors(tensors, quantization, "input");
  for (const viaduct::bridge::LogicalTensor& tensor : logical.tensors) {
    // A weight without elements needs no scale; one may stand beside it.
    if (tensor.form < 0 || viaduct::num_elements(tensor.shape) == 0) continue;
    // The scales are as many as the form needs.
    const auto& form = logical.forms.at(static_cast<size_t>(tensor.form));
    VIADUCT_CHECK_EQ(viaduct::num_elements(form.grid(tensor.shape)),
                     viaduct::num_elements(tensors.at(static_cast<size_t>(tensor.scales)).shape), "{}",
                     tensor.name);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    read(viaduct::Json::parse(std::string_view(reinterpret_cast<const char*>(data), size), "input"));
  } catch (const viaduct::UserError&) {
    // what a wrong configuration or list must end in
  }
  return 0;
}
