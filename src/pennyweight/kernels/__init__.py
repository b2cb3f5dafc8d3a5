"""Machine code under the operators: the C++ library and its loader. What an operator means is said in `ops`."""
